#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Trains the builtin bundle's entropy tables on what the encoder really produces.
#
# usage: onnx/train_tables.sh CLIPS_DIR WORK_DIR [ROUNDS]
# Every third clip of CLIPS_DIR is coded at four qualities, in one, two or four layers; latents and motion go to
# WORK_DIR, the tables to onnx/models/builtin/tables.bin. Needs ffmpeg, cargo, and some 6 GB in WORK_DIR.
set -eu
clips=$1 work=$2 rounds=${3:-4}
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$work"
cd "$root"
cargo build --release --quiet -p elastictok-tools
bin=${CARGO_TARGET_DIR:-target}/release
rm -f "$work"/*.dump
n=0 kind=0
for clip in "$clips"/*; do
    n=$((n + 1))
    [ $((n % 3)) -eq 0 ] || continue
    ffmpeg -v error -y -i "$clip" -frames:v 32 -pix_fmt yuv420p -f yuv4mpegpipe "$work/clip.y4m"
    for psnr in 30 33.5 37 41; do
        kind=$((kind + 1))
        case $((kind % 5)) in
            0 | 2) layers=1 ;;
            1) layers=2 ;;
            *) layers=4 ;;
        esac
        "$bin/codec" dump "$work/clip.y4m" "$work/$n-$psnr.dump" --target-psnr "$psnr" --layers "$layers" 2>/dev/null
    done
done
"$bin/collect_tables" onnx/models/builtin/tables.bin "$rounds" "$work"/*.dump
