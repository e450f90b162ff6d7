#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Live video over TCP from one process to another. Start the receiver first.
#
# usage: examples/tcp.sh receive | send [HOST]
# Environment: PORT (default 5000), SINK (default autovideosink), CAMERA (source element, default v4l2src)
set -eu
cd "$(dirname "$0")/.."
. examples/env.sh
port=${PORT:-5000}
# shellcheck disable=SC2086 # SINK, CAMERA: elements and their properties
case ${1:-} in
    receive) gst-launch-1.0 tcpserversrc host=0.0.0.0 port="$port" ! elastictokparse ! elastictokdec ! videoconvert ! ${SINK:-autovideosink sync=false} ;;
    send) gst-launch-1.0 -e ${CAMERA:-v4l2src} ! decodebin ! videoconvert ! elastictokenc rate-control=bitrate bitrate=2000 ! tcpclientsink host="${2:-127.0.0.1}" port="$port" ;;
    *) sed -n '3,6s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
