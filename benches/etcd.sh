#!/bin/sh
# Our durable cluster beside etcd, in turn, on the same disk: writes a second at 1, 64 and 256 clients, the time a
# raw sync takes, and the ratios.
#
#   benches/etcd.sh [arguments of `report`, as --quick or --json]
#
# Starts three members of etcd on loopback, their data beside the program that measures, and stops them at the end.
# Needs `etcd` (Debian: the package etcd-server). PORT (default 23790) is the first of six ports it takes.
set -eu

port=${PORT:-23790}
root=$(cd "$(dirname "$0")/.." && pwd)

if ! command -v etcd >/dev/null; then
    echo "etcd is not installed: apt-get install etcd-server" >&2
    exit 1
fi

cargo build --release --manifest-path "$root/Cargo.toml" -p mesh-benches --features peers --bin report
target=${CARGO_TARGET_DIR:-$root/target}/release
data=$(mktemp -d "$target/etcd-XXXXXX")
members=

stop() {
    for member in $members; do
        kill "$member" 2>/dev/null || true
    done
    wait
    rm -rf "$data"
}
trap stop EXIT
trap 'exit 1' INT TERM

client_url() { echo "http://127.0.0.1:$((port + $1))"; }
peer_url() { echo "http://127.0.0.1:$((port + 3 + $1))"; }

echo "$(etcd --version | head -n 1), three members on loopback, data in $data" >&2
for member in 0 1 2; do
    etcd --name "member$member" --data-dir "$data/$member" --logger zap --log-level error \
        --listen-client-urls "$(client_url $member)" --advertise-client-urls "$(client_url $member)" \
        --listen-peer-urls "$(peer_url $member)" --initial-advertise-peer-urls "$(peer_url $member)" \
        --initial-cluster "member0=$(peer_url 0),member1=$(peer_url 1),member2=$(peer_url 2)" \
        --initial-cluster-state new --initial-cluster-token "mesh-benches-$$" \
        --quota-backend-bytes 8589934592 >"$data/$member.log" 2>&1 &
    members="$members $!"
done

# It waits until a member leads.
if ! "$target/report" durable --etcd "$(client_url 0),$(client_url 1),$(client_url 2)" "$@"; then
    tail -n 5 "$data"/*.log >&2
    exit 1
fi
