//! The one integration binary: http, crash, cluster, simulation, architecture.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests say what must hold"
)]

mod architecture;
mod cluster;
mod crash;
mod deploy;
mod http;
mod recovery_10m;
mod simulation;
mod support;
