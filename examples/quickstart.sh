#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Encodes video to .etok, decodes it again, and says what came of it.
#
# usage: examples/quickstart.sh [INPUT]
#   INPUT: any video file GStreamer reads; else ten seconds of the first camera; else of a generated moving scene.
# Environment: TARGET_PSNR (dB, default 36), OUT (folder, default ./out)
set -eu
cd "$(dirname "$0")/.."
./install-deps.sh --bench
cargo build --release --quiet -p gst-plugin-elastictok
export GST_PLUGIN_PATH="${CARGO_TARGET_DIR:-$PWD/target}/release${GST_PLUGIN_PATH:+:$GST_PLUGIN_PATH}"
out=${OUT:-$PWD/out}
psnr=${TARGET_PSNR:-36}
mkdir -p "$out"

if [ $# -gt 0 ]; then
    [ -f "$1" ] || { echo "no such file: $1" >&2; exit 1; }
    source="filesrc location=\"$1\" ! decodebin"
elif [ -c /dev/video0 ]; then
    source="v4l2src num-buffers=300"
else
    echo "no input given and no camera: generating a moving scene"
    .cache/venv/bin/python benches/scene.py --frames 120 --size 640x360 "$out/scene.y4m"
    source="filesrc location=\"$out/scene.y4m\" ! y4mdec"
fi

# The source as the encoder sees it, so that both sides can be compared.
gst() { eval "gst-launch-1.0 -q $1"; }
gst "$source ! videoconvert ! video/x-raw,format=I420 ! y4menc ! filesink location=\"$out/source.y4m\""
echo "encoding at $psnr dB"
start=$(date +%s.%N)
gst "filesrc location=\"$out/source.y4m\" ! y4mdec ! elastictokenc target-psnr=$psnr ! filesink location=\"$out/video.etok\""
middle=$(date +%s.%N)
gst "filesrc location=\"$out/video.etok\" ! elastictokparse ! elastictokdec ! y4menc ! filesink location=\"$out/decoded.y4m\""
end=$(date +%s.%N)
.cache/venv/bin/python benches/compare.py "$out/source.y4m" "$out/decoded.y4m" "$out/video.etok" \
    --encode-seconds "$(echo "$middle - $start" | bc 2>/dev/null || python3 -c "print($middle - $start)")" \
    --decode-seconds "$(echo "$end - $middle" | bc 2>/dev/null || python3 -c "print($end - $middle)")"
echo "play it: GST_PLUGIN_PATH=$GST_PLUGIN_PATH gst-launch-1.0 filesrc location=$out/video.etok ! decodebin3 ! videoconvert ! autovideosink"
