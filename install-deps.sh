#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Installs what ElasticTok needs on Debian 12 or alike: GStreamer, compilers, and the ONNX Runtime library. Does nothing where
# all is there. Rust comes from rustup (https://rustup.rs) and is only checked for.
#
# usage: install-deps.sh [--test] [--bench]
#   --test   also what the tests need: a Python environment with numpy, onnx, onnxruntime, numba, pytest in .cache/venv
#   --bench  also what the benchmarks need: ffmpeg, and scipy, matplotlib, pillow in .cache/venv
set -eu
root=$(cd "$(dirname "$0")" && pwd)
version=1.32.0 # of ONNX Runtime; 1.24 and later work
library=${XDG_DATA_HOME:-$HOME/.local/share}/elastictok/onnxruntime

packages="build-essential pkg-config python3 python3-pip python3-venv ffmpeg meson ninja-build
gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-base-apps gstreamer1.0-plugins-good gstreamer1.0-plugins-bad
gstreamer1.0-plugins-ugly gstreamer1.0-libav libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev"

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        echo "install-deps.sh: not root and no sudo; run as root: $*" >&2
        exit 1
    fi
}

missing=
if command -v dpkg-query >/dev/null; then
    for p in $packages; do
        dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
    done
    if [ -n "$missing" ]; then
        echo "installing:$missing"
        as_root apt-get update -qq
        # shellcheck disable=SC2086
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
    fi
else
    echo "install-deps.sh: no dpkg here; install the equivalents of: $packages" >&2
fi

if ! command -v cargo >/dev/null; then
    echo "install-deps.sh: cargo is missing; install Rust 1.92 or later with rustup (https://rustup.rs)" >&2
    exit 1
fi

has_library() {
    [ -n "${ORT_DYLIB_PATH:-}" ] && [ -f "$ORT_DYLIB_PATH" ] && return 0
    for f in "$library"/libonnxruntime.so*; do
        [ -f "$f" ] && return 0
    done
    return 1
}
if ! has_library; then
    echo "installing ONNX Runtime $version to $library"
    tmp=$(mktemp -d)
    trap 'rm -rf "$tmp"' EXIT
    python3 -m pip download --quiet --no-deps --only-binary :all: -d "$tmp" "onnxruntime==$version"
    mkdir -p "$library"
    python3 - "$tmp" "$library" <<'PYTHON'
import pathlib, shutil, sys, zipfile
wheel = next(pathlib.Path(sys.argv[1]).glob("onnxruntime-*.whl"))
with zipfile.ZipFile(wheel) as z:
    names = [n for n in z.namelist() if n.startswith("onnxruntime/capi/libonnxruntime") and ".so" in n]
    if not names:
        sys.exit("the onnxruntime wheel holds no libonnxruntime.so for this machine; build ONNX Runtime and set ORT_DYLIB_PATH")
    for n in names:
        target = pathlib.Path(sys.argv[2]) / pathlib.Path(n).name
        with z.open(n) as src, open(target.with_suffix(".new"), "wb") as dst:
            shutil.copyfileobj(src, dst)
        target.with_suffix(".new").rename(target)
PYTHON
fi

venv() {
    [ -x "$root/.cache/venv/bin/python" ] || python3 -m venv "$root/.cache/venv"
    "$root/.cache/venv/bin/python" -c "import $1" 2>/dev/null && return
    shift
    echo "installing into .cache/venv: $*"
    "$root/.cache/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
}
for option in "$@"; do
    case $option in
        --test) venv "numpy, onnx, onnxruntime, numba, pytest" numpy==2.4.6 onnx==1.23.2 "onnxruntime==$version" numba==0.68.1 pytest ;;
        --bench) venv "numpy, scipy, matplotlib, PIL" numpy==2.4.6 scipy==1.17.1 matplotlib==3.11.2 pillow==13.0.0 ;;
        *) echo "usage: install-deps.sh [--test] [--bench]" >&2; exit 2 ;;
    esac
done
