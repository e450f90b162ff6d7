#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Encodes video to .etok, decodes it again, and says what came of it.
#
# usage: examples/quickstart.sh [INPUT]
#   INPUT: any video file GStreamer reads; else ten seconds of the first camera; else of a generated moving scene.
# Environment: TARGET_PSNR (dB, default 36), OUT (folder, default ./out)
set -eu
case ${1:-} in
    -h | --help) sed -n '3,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
esac
# Named relative to where the user stands, so before cd.
input=
if [ $# -gt 0 ]; then
    [ -f "$1" ] || { echo "no such file: $1" >&2; exit 1; }
    [ -s "$1" ] || { echo "$1 is empty" >&2; exit 1; }
    input=$(realpath "$1")
fi
[ -z "${OUT:-}" ] || { mkdir -p "$OUT"; OUT=$(realpath "$OUT"); }
cd "$(dirname "$0")/.."
DEPS=--demo
. examples/env.sh
out=${OUT:-$PWD/out}
psnr=${TARGET_PSNR:-36}
mkdir -p "$out"
tmp=$(mktemp -d)
jobs=
# shellcheck disable=SC2086 # a list of processes
trap '[ -z "$jobs" ] || kill $jobs 2>/dev/null; rm -rf "$tmp"; [ -z "${out:-}" ] || rm -f "$out/.video.etok"' EXIT
trap 'exit 1' INT TERM

camera=
if [ -z "$input" ]; then
    for device in /dev/video*; do
        if [ ! -c "$device" ]; then continue; fi
        echo "recording ten seconds from $device"
        # Without loss, so that what the encoder takes can be compared with what comes back.
        if gst-launch-1.0 -q v4l2src device="$device" num-buffers=300 ! decodebin ! videoconvert ! video/x-raw,format=I420 ! queue max-size-time=0 max-size-bytes=0 max-size-buffers=300 ! avenc_ffv1 ! matroskamux ! filesink location="$tmp/camera.mkv" &&
            [ -s "$tmp/camera.mkv" ]; then
            camera=$device input=$tmp/camera.mkv
            break
        fi
        echo "$device gives no pictures"
    done
fi
if [ -z "$input" ]; then
    echo "no input given and no camera: generating a moving scene"
    input=$out/scene.y4m
    .cache/venv/bin/python benches/scene.py --frames 300 --size 640x360 "$input"
fi
# A plain name: gst-launch would read some characters of the user's as its own syntax.
ln -s "$input" "$tmp/input"

seconds() { python3 -c "import sys; print(float(sys.argv[2]) - float(sys.argv[1]))" "$1" "$2"; }
echo "encoding ${camera:-$input} at $psnr dB"
start=$(date +%s.%N)
gst-launch-1.0 -q filesrc location="$tmp/input" ! decodebin ! videoconvert ! elastictokenc target-psnr="$psnr" ! filesink location="$out/.video.etok"
middle=$(date +%s.%N)
gst-launch-1.0 -q filesrc location="$out/.video.etok" ! elastictokparse ! elastictokdec ! fakesink sync=false
end=$(date +%s.%N)
mv "$out/.video.etok" "$out/video.etok"

# Both sides stream through pipes, so a long film needs no room as raw video. The shell opens them, not filesink: where a
# pipeline fails before its first buffer, the reader then sees an end and does not wait. drop-allocation: plain rows, no padding.
mkfifo "$tmp/source" "$tmp/decoded"
gst-launch-1.0 -q filesrc location="$tmp/input" ! decodebin ! videoconvert ! video/x-raw,format=I420 ! identity drop-allocation=true ! fdsink fd=3 3>"$tmp/source" &
jobs=$!
gst-launch-1.0 -q filesrc location="$out/video.etok" ! elastictokparse ! elastictokdec ! identity drop-allocation=true ! fdsink fd=3 3>"$tmp/decoded" &
jobs="$jobs $!"
.cache/venv/bin/python benches/compare.py "$tmp/source" "$tmp/decoded" "$out/video.etok" \
    --encode-seconds "$(seconds "$start" "$middle")" --decode-seconds "$(seconds "$middle" "$end")"
wait
jobs=
echo "written: $out/video.etok; play it with"
echo "  GST_PLUGIN_PATH=$GST_PLUGIN_PATH gst-launch-1.0 filesrc location=\"$out/video.etok\" ! decodebin3 ! videoconvert ! autovideosink"
