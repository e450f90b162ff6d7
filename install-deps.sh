#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Installs what ElasticTok needs on Debian 12 or similar: compilers, GStreamer, and the ONNX Runtime library. Does nothing, and
# says nothing, where all is there. Rust comes from rustup and is only checked for.
#
# usage: install-deps.sh [--demo] [--test] [--bench] [--train]
#   --demo   also numpy in .cache/venv, for examples/quickstart.sh
#   --test   also ffmpeg, and what the tests of onnx/ need in .cache/venv (PyTorch: some gigabytes)
#   --bench  also ffmpeg, libvpx, and what benches/ needs in .cache/venv
#   --train  also ffmpeg, and all of onnx/requirements.txt in .cache/venv (PyTorch: some gigabytes)
set -eu
root=$(cd "$(dirname "$0")" && pwd)
pins=$root/onnx/requirements.txt
venv=$root/.cache/venv
library=${XDG_DATA_HOME:-$HOME/.local/share}/elastictok/onnxruntime
oldest=1.24 # ONNX Runtime; the version installed is the one onnx/requirements.txt pins
rust=1.92

say() { echo "install-deps.sh: $*" >&2; }
die() { say "$*"; exit 1; }

demo='' test='' bench='' train=''
for option in "$@"; do
    case $option in
        --demo) demo=1 ;;
        --test) test=1 ;;
        --bench) bench=1 ;;
        --train) train=1 ;;
        -h | --help) sed -n '3,11s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) say "unknown option $option"; sed -n '6,10s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
done

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "these need root, and there is no sudo; run as root: $*"
    fi
}

# x11 sinks for autovideosink are in gstreamer1.0-x, gdp and y4mdec in -bad, x264enc in -ugly, H.264 decoding in -libav.
packages="build-essential pkg-config python3 python3-pip python3-venv meson ninja-build
libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-base-apps
gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly gstreamer1.0-libav gstreamer1.0-x"
[ -z "$bench" ] || packages="$packages libvpx-dev"
# clips are read by it
[ -z "$bench$test$train" ] || packages="$packages ffmpeg"
# Emulated processors must decode the same pictures; the RTSP example runs.
[ -z "$test" ] || packages="$packages qemu-user python3-gi gir1.2-gst-rtsp-server-1.0"
if command -v dpkg-query >/dev/null; then
    missing=
    for p in $packages; do
        dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
    done
    if [ -n "$missing" ]; then
        say "installing$missing"
        as_root apt-get update -qq || say "the package lists could not be refreshed; trying with the old ones"
        # shellcheck disable=SC2086 # a list of names
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null ||
            die "apt-get could not install:$missing"
    fi
else
    say "no dpkg here, so packages are not checked; needed are the equivalents of: $(echo "$packages" | tr '\n' ' ')"
fi
command -v python3 >/dev/null || die "python3 is missing"

# at_least VERSION OLDEST
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }
command -v cargo >/dev/null || die "cargo is missing; install Rust $rust or later with rustup (https://rustup.rs)"
have=$(rustc --version | cut -d ' ' -f 2)
at_least "$have" "$rust" || die "Rust is $have, and $rust or later is needed; run: rustup update stable"

# The version of the library named, by loading it: a file cut short must not pass.
runtime_version() {
    python3 - "$1" 2>/dev/null <<'PYTHON'
import ctypes, sys
class Base(ctypes.Structure):
    _fields_ = [("get_api", ctypes.c_void_p), ("get_version", ctypes.CFUNCTYPE(ctypes.c_char_p))]
entry = ctypes.CDLL(sys.argv[1]).OrtGetApiBase
entry.restype = ctypes.POINTER(Base)
print(entry().contents.get_version().decode())
PYTHON
}
usable() { v=$(runtime_version "$1") && at_least "$v" "$oldest"; }

# The one the plugin takes: its search order, src/runtime/library.rs.
found=
if [ -n "${ORT_DYLIB_PATH:-}" ]; then
    usable "$ORT_DYLIB_PATH" || die "ORT_DYLIB_PATH=$ORT_DYLIB_PATH is not an ONNX Runtime of version $oldest or later; unset it, or name one that is"
    found=$ORT_DYLIB_PATH
else
    for d in /usr/lib/*/elastictok /usr/local/lib /usr/lib /usr/lib64 /usr/lib/x86_64-linux-gnu /usr/lib/aarch64-linux-gnu /usr/local/lib/x86_64-linux-gnu "$library"; do
        for f in "$d"/libonnxruntime.so "$d"/libonnxruntime.so.*; do
            if [ -n "$found" ] || [ ! -f "$f" ]; then continue; fi
            if usable "$f"; then
                found=$f
            elif [ "$d" != "$library" ]; then
                say "$f is no ONNX Runtime of version $oldest or later; if the plugin takes it, set ORT_DYLIB_PATH to one in $library"
            fi
        done
    done
fi
tmp=
trap '[ -z "$tmp" ] || rm -rf "$tmp"' EXIT
if [ -z "$found" ]; then
    version=$(sed -n 's/^onnxruntime==//p' "$pins")
    say "installing ONNX Runtime $version in $library"
    mkdir -p "$library"
    tmp=$(mktemp -d "$library/.new.XXXXXX")
    # Only the library is taken out of the wheel, so any wheel for this processor will do, whatever Python runs here.
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --python-version 3.11 --dest "$tmp" "onnxruntime==$version" ||
        die "ONNX Runtime could not be downloaded; fetch the wheel onnxruntime $version elsewhere and unpack its capi/libonnxruntime.so* into $library"
    python3 - "$tmp" <<'PYTHON' || exit 1
import pathlib, shutil, sys, zipfile
folder = pathlib.Path(sys.argv[1])
with zipfile.ZipFile(next(folder.glob("*.whl"))) as z:
    names = [n for n in z.namelist() if n.startswith("onnxruntime/capi/libonnxruntime.so")]
    if not names:
        sys.exit("the wheel holds no libonnxruntime.so for this system; build ONNX Runtime and set ORT_DYLIB_PATH")
    for n in names:
        with z.open(n) as src, open(folder / pathlib.Path(n).name, "wb") as dst:
            shutil.copyfileobj(src, dst)
PYTHON
    for f in "$tmp"/libonnxruntime.so*; do
        usable "$f" || die "the ONNX Runtime downloaded does not load here; build it and set ORT_DYLIB_PATH"
    done
    rm -f "$library"/libonnxruntime.so*
    mv "$tmp"/libonnxruntime.so* "$library"
fi

# in_venv REQUIREMENT..: those whose module is missing, at the versions that onnx/requirements.txt pins
in_venv() {
    if ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
        python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "Python 3.11 or later is needed, not $(python3 --version)"
        python3 -m venv --clear "$venv"
    fi
    # -I: the folder onnx/ of this project is not the module
    missing=$("$venv/bin/python" -I - "$@" <<'PYTHON'
import importlib.util, sys
module = {"pillow": "PIL"}
print(*(name for name in sys.argv[1:] if importlib.util.find_spec(module.get(name, name)) is None))
PYTHON
    )
    [ -n "$missing" ] || return 0
    say "installing in .cache/venv: $missing"
    # shellcheck disable=SC2086 # a list of names
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$pins" $missing || die "pip could not install: $missing"
}
[ -z "$demo" ] || in_venv numpy
[ -z "$test" ] || in_venv numpy onnx onnxruntime pillow torch pytest
[ -z "$bench" ] || in_venv numpy scipy matplotlib pillow
# shellcheck disable=SC2046 # a list of names
[ -z "$train" ] || in_venv $(sed -n 's/^\([a-z][a-z0-9-]*\).*/\1/p' "$pins")
