#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# A video file to .etok at a constant quality, then played from there.
#
# usage: examples/file.sh INPUT [OUTPUT.etok]
# Environment: SINK (default autovideosink)
set -eu
[ $# -gt 0 ] || { sed -n '3,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }
input=$(realpath "$1")
output=$(realpath -m "${2:-out.etok}")
cd "$(dirname "$0")/.."
. examples/env.sh
gst-launch-1.0 -e filesrc location="$input" ! decodebin ! videoconvert ! elastictokenc target-psnr=36 ! filesink location="$output"
# shellcheck disable=SC2086 # SINK: an element and its properties
gst-launch-1.0 filesrc location="$output" ! decodebin3 ! videoconvert ! ${SINK:-autovideosink}
