#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# A camera to .etok at a constant bitrate, until Ctrl-C.
#
# usage: examples/camera.sh [OUTPUT.etok]
# Environment: CAMERA (source element, default v4l2src), BITRATE (kbit/s, default 800)
set -eu
output=$(realpath -m "${1:-camera.etok}")
cd "$(dirname "$0")/.."
. examples/env.sh
# decodebin: many cameras give JPEG at their larger sizes. -e: Ctrl-C still codes what waits in the encoder.
# shellcheck disable=SC2086 # CAMERA: an element and its properties
gst-launch-1.0 -e ${CAMERA:-v4l2src} ! decodebin ! videoconvert ! queue max-size-buffers=8 leaky=downstream ! \
    elastictokenc rate-control=bitrate bitrate="${BITRATE:-800}" ! filesink location="$output"
