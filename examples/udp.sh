#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Live video over RTP and UDP from one process to another, in any order of starting: the stream's header travels with every key
# block, and a receiver begins at the next one, two seconds away at most. rtpjitterbuffer puts packets that overtook one another
# back in order, and waits up to 100 ms for late ones.
#
# usage: examples/udp.sh receive | send [HOST]
# Environment: PORT (default 5004), SINK (default autovideosink), CAMERA (source element, default v4l2src)
set -eu
cd "$(dirname "$0")/.."
. examples/env.sh
port=${PORT:-5004}
caps=application/x-rtp,media=video,clock-rate=90000,encoding-name=ELASTICTOK
# shellcheck disable=SC2086 # SINK, CAMERA: elements and their properties
case ${1:-} in
    receive) gst-launch-1.0 udpsrc port="$port" caps="$caps" ! rtpjitterbuffer latency=100 ! rtpelastictokdepay ! elastictokdec ! videoconvert ! ${SINK:-autovideosink} ;;
    send) gst-launch-1.0 -e ${CAMERA:-v4l2src} ! decodebin ! videoconvert ! elastictokenc rate-control=bitrate bitrate=2000 key-int-max=60 ! \
        rtpelastictokpay ! udpsink host="${2:-127.0.0.1}" port="$port" ;;
    *) sed -n '3,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
