#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# What docs/streaming.md says of MoQ: what the relay costs with two publishers and no, five and ten viewers; and which layers
# arrive in time through a bottleneck of 300 kbit/s, with a track for each layer and with all layers in one track.
#
# usage: sudo examples/moq/measure.sh RELAY PYTHON SOURCE
#   RELAY   the program moq-relay: cargo install moq-relay --version 0.17.10
#   PYTHON  that of the example's environment: .cache/moq/bin/python
#   SOURCE  live source in gst-launch's words, of some 500 kbit/s at BITRATE
# Environment: BITRATE (kbit/s, default 600), SECONDS_EACH (default 30)
set -eu
relay=$1 python=$2 source=$3
bitrate=${BITRATE:-600} seconds=${SECONDS_EACH:-30}
here=$(dirname "$0")
example="$python $here/elastictok_moq.py"
url=https://10.77.0.1:4477
pids=
finish() {
    # shellcheck disable=SC2086 # a list
    [ -z "$pids" ] || kill $pids 2>/dev/null || true
    pids=
    wait
}
trap 'finish; ip netns delete moqview 2>/dev/null || true' EXIT
ip netns add moqview
ip link add moq0 type veth peer name moq1 netns moqview
ip addr add 10.77.0.1/24 dev moq0 && ip link set moq0 up
ip -n moqview addr add 10.77.0.2/24 dev moq1 && ip -n moqview link set moq1 up && ip -n moqview link set lo up

start() { # OPTION ...: the relay and publishers of broadcasts a and b
    "$relay" --listen 10.77.0.1:4477 --listen-tls-generate 10.77.0.1 --auth-public '**' >/tmp/moq-relay.log 2>&1 &
    relay_pid=$!
    pids=$relay_pid
    sleep 1
    for name in a b; do
        # shellcheck disable=SC2086 # words
        $example publish --insecure --url $url --name $name --source "$source" --bitrate "$bitrate" --key-int-max 30 "$@" &
        pids="$pids $!"
    done
    sleep 3
}

ticks() { awk '{print $14 + $15}' "/proc/$relay_pid/stat"; }

echo "viewers; relay's CPU in % of a core; its memory in MB"
start
for count in 0 5 10; do
    viewers=
    for n in $(seq $count); do
        name=a
        [ $((n % 2)) -eq 0 ] || name=b
        $example watch --insecure --url $url --name $name --layers $((n % 4 + 1)) --sink '' --seconds "$seconds" >"/tmp/moq-view-$n.json" &
        viewers="$viewers $!"
    done
    sleep 5
    before=$(ticks)
    sleep $((seconds - 10))
    used=$(($(ticks) - before))
    awk -v c=$count -v u=$used -v s=$((seconds - 10)) -v hz="$(getconf CLK_TCK)" '/VmRSS/ {printf "%d; %.1f; %.0f\n", c, 100 * u / hz / s, $2 / 1000}' "/proc/$relay_pid/status"
    # shellcheck disable=SC2086 # a list
    [ -z "$viewers" ] || wait $viewers
done
cat /tmp/moq-view-[1-4].json
finish

tc qdisc add dev moq0 root tbf rate 300kbit burst 3000 latency 200ms
for single in '' --single; do
    echo "through 300 kbit/s${single:+, one track of everything}"
    # shellcheck disable=SC2086 # none, or one
    start $single
    layers=4
    [ -z "$single" ] || layers=1
    ip netns exec moqview $example watch --insecure --url $url --name a --layers $layers --sink '' --seconds "$seconds"
    finish
done
