# Why this exists: one image with the program, from these sources alone. docker-compose.yml builds and runs it;
#   docker build -t sluice . && docker run --rm sluice --help

FROM rust:1.95.0-slim-bookworm AS build
# librdkafka is built from source with configure and make; it and the ScyllaDB driver link the system's OpenSSL.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc g++ make pkg-config libssl-dev zlib1g-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# The caches keep a rebuild short; what they hold is no part of the image, hence the copy.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked -p sluice \
    && cp target/release/sluice /usr/local/bin/sluice

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends libssl3 zlib1g ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin sluice \
    && install --directory --owner=sluice --group=sluice /var/lib/sluice
COPY --from=build /usr/local/bin/sluice /usr/local/bin/sluice
# Asks a node whether it is ready. It needs bash, which the base image has, and so saves curl and what curl brings along.
COPY --chmod=0755 deploy/ready.sh /usr/local/bin/sluice-ready
USER sluice
WORKDIR /var/lib/sluice
EXPOSE 8080
# No HEALTHCHECK: what healthy means depends on the subcommand, so whoever runs the image says it.
ENTRYPOINT ["sluice"]
