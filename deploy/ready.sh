#!/usr/bin/env bash
# Succeeds if http://HOST:PORT/PATH answers 200: the health check of containers that have bash and no HTTP client.
#   ready.sh HOST PORT [PATH]        PATH is /readyz if absent
set -euo pipefail

host=$1 port=$2 path=${3:-/readyz}
exec 3<>"/dev/tcp/$host/$port"
printf 'GET %s HTTP/1.1\r\nHost: %s:%s\r\nConnection: close\r\n\r\n' "$path" "$host" "$port" >&3
# Whoever runs this bounds its time; the bound here is for people who try it by hand.
read -r -t 5 _ status _ <&3
[[ $status == 200 ]]
