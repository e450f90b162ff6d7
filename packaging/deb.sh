#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Builds a Debian package: the plugin where GStreamer looks for it, presets, the etok tool with its manual pages, and the ONNX Runtime
# library. Debian 12 has no package of that library, so it is taken from where install-deps.sh put it and lies where only ElasticTok
# looks. Prints the package's path.
#
# usage: packaging/deb.sh [--profile PROFILE] [--built] [--out DIR]
#   --profile  cargo's profile (default release)
#   --built    package what is built already
#   --out      folder for the package (default target/debian)
# Environment: ONNXRUNTIME (a folder with libonnxruntime.so.*, LICENSE and ThirdPartyNotices.txt in place of the downloaded wheel)
set -eu
cd "$(dirname "$0")/.."
root=$PWD
name=gstreamer1.0-elastictok
profile=release
out=$root/target/debian
build=yes
say() { echo "deb.sh: $*" >&2; }
die() { say "$*"; exit 1; }
while [ $# -gt 0 ]; do
    case $1 in
        --profile) profile=$2; shift 2 ;;
        --built) build=; shift ;;
        --out) mkdir -p "$2"; out=$(cd "$2" && pwd); shift 2 ;;
        -h | --help) sed -n '3,11s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) sed -n '7,11s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
done
for tool in dpkg-deb dpkg-shlibdeps dpkg-architecture strip cargo; do
    command -v "$tool" >/dev/null || die "$tool is missing; install dpkg-dev, binutils and Rust"
done
triplet=$(dpkg-architecture -qDEB_HOST_MULTIARCH)
architecture=$(dpkg-architecture -qDEB_HOST_ARCH)
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# What the wheel holds beside the library: its licences must travel with it.
runtime=${ONNXRUNTIME:-}
if [ -z "$runtime" ]; then
    pinned=$(sed -n 's/^onnxruntime==//p' onnx/requirements.txt)
    say "downloading ONNX Runtime $pinned"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --python-version 3.11 --dest "$tmp/wheel" "onnxruntime==$pinned" >&2 ||
        die "ONNX Runtime could not be downloaded; name a folder with it in ONNXRUNTIME"
    runtime=$tmp/runtime
    mkdir "$runtime"
    python3 - "$tmp/wheel" "$runtime" <<'PYTHON'
import pathlib, shutil, sys, zipfile
wheel, out = (pathlib.Path(a) for a in sys.argv[1:])
with zipfile.ZipFile(next(wheel.glob("*.whl"))) as z:
    for name in z.namelist():
        if name.startswith("onnxruntime/capi/libonnxruntime.so") or name in ("onnxruntime/LICENSE", "onnxruntime/ThirdPartyNotices.txt"):
            with z.open(name) as src, open(out / pathlib.Path(name).name, "wb") as dst:
                shutil.copyfileobj(src, dst)
PYTHON
fi
for f in LICENSE ThirdPartyNotices.txt; do
    [ -f "$runtime/$f" ] || die "$runtime has no $f; the library must not be passed on without"
done
library=$(find "$runtime" -maxdepth 1 -name 'libonnxruntime.so.*' | sort -V | tail -n 1)
[ -n "$library" ] || die "$runtime has no libonnxruntime.so.*"

members='-p gst-plugin-elastictok'
[ ! -d etok ] || members="$members -p etok"
# shellcheck disable=SC2086 # options
[ -z "$build" ] || cargo build --profile "$profile" $members >&2
built=${CARGO_TARGET_DIR:-$root/target}/$([ "$profile" = dev ] && echo debug || echo "$profile")

stage=$tmp/stage
doc=$stage/usr/share/doc/$name
lib=$stage/usr/lib/$triplet
install -d "$stage/DEBIAN" "$doc"
install -D -m 644 "$built/libgstelastictok.so" "$lib/gstreamer-1.0/libgstelastictok.so"
install -D -m 644 "$library" "$lib/elastictok/$(basename "$library")"
install -D -m 644 plugin/presets/GstElasticTokEnc.prs "$stage/usr/share/gstreamer-1.0/presets/GstElasticTokEnc.prs"
strip --strip-unneeded "$lib/gstreamer-1.0/libgstelastictok.so"
programs=
if [ -d etok ]; then
    install -D -m 755 "$built/etok" "$stage/usr/bin/etok"
    strip "$stage/usr/bin/etok"
    programs=$stage/usr/bin/etok
    install -d "$stage/usr/share/man/man1"
    "$built/etok" man "$stage/usr/share/man/man1"
    gzip -9n "$stage"/usr/share/man/man1/*
    "$built/etok" completions bash >"$tmp/etok.bash"
    install -D -m 644 "$tmp/etok.bash" "$stage/usr/share/bash-completion/completions/etok"
else
    say "no etok crate here: the package has no etok tool"
fi
gzip -9nc "$runtime/ThirdPartyNotices.txt" >"$doc/onnxruntime-ThirdPartyNotices.txt.gz"
gzip -9nc docs/bitstream.md >"$doc/bitstream.md.gz"
install -m 644 README.md "$doc/README.md"
# A paragraph of a licence in the form of a copyright file: indented, empty lines as dots.
paragraph() { sed 's/^[[:space:]]*$/./; s/^/ /' "$1"; }
{
    printf 'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: %s\nSource: %s\n\n' \
        gst-plugin-elastictok "$(sed -n 's/^repository = "\(.*\)"/\1/p' Cargo.toml)"
    printf 'Files: *\nCopyright: ElasticTok developers\nLicense: Expat or Apache-2.0\n\n'
    printf 'Files: usr/lib/*/elastictok/libonnxruntime.so.*\nCopyright: Microsoft Corporation\nLicense: Expat-onnxruntime\n'
    printf 'Comment: what it was built with is in onnxruntime-ThirdPartyNotices.txt.gz in this folder.\n\n'
    printf 'License: Expat\n'; paragraph LICENSE-MIT
    printf '\nLicense: Expat-onnxruntime\n'; paragraph "$runtime/LICENSE"
    printf '\nLicense: Apache-2.0\n On Debian systems the full text is in /usr/share/common-licenses/Apache-2.0.\n'
} >"$doc/copyright"
date=$(git log -1 --format=%cd --date=rfc 2>/dev/null || date -R)
printf '%s (%s) unstable; urgency=medium\n\n  * Built from the sources of this version.\n\n -- ElasticTok developers <elastictok@localhost>  %s\n' "$name" "$version" "$date" |
    gzip -9n >"$doc/changelog.gz"

mkdir "$tmp/debian"
printf 'Source: %s\n\nPackage: %s\nArchitecture: any\n' "$name" "$name" >"$tmp/debian/control"
# shellcheck disable=SC2086 # a list of files
depends=$(cd "$tmp" && dpkg-shlibdeps -O -e"$lib/gstreamer-1.0/libgstelastictok.so" -e"$lib/elastictok/$(basename "$library")" ${programs:+-e$programs} |
    sed -n 's/^shlibs:Depends=//p')
[ -n "$depends" ] || die "dpkg-shlibdeps found no dependencies"
cat >"$stage/DEBIAN/control" <<CONTROL
Package: $name
Version: $version
Architecture: $architecture
Maintainer: ElasticTok developers <elastictok@localhost>
Section: video
Priority: optional
Installed-Size: $(du -sk --exclude=DEBIAN "$stage" | cut -f 1)
Depends: $depends, libgstreamer1.0-0 (>= 1.22), gstreamer1.0-plugins-base
Recommends: gstreamer1.0-plugins-good, gstreamer1.0-tools
Suggests: gstreamer1.0-libav, gstreamer1.0-plugins-bad
Homepage: $(sed -n 's/^repository = "\(.*\)"/\1/p' Cargo.toml)
Description: streaming neural video codec for GStreamer
 ElasticTok codes video into elastic tokens, ordered by importance: any prefix
 of a block decodes, so a stream is thinned without encoding it again.
 .
 This package has the elements elastictokenc, elastictokdec, elastictokparse and
 elastictokthin$([ -z "$programs" ] || printf ', the etok tool,') and the ONNX Runtime library that they run on.
CONTROL
(cd "$stage" && find usr -type f -print0 | sort -z | xargs -0 md5sum) >"$stage/DEBIAN/md5sums"
find "$stage" -type d -exec chmod 755 {} +
mkdir -p "$out"
package=$out/${name}_${version}_$architecture.deb
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH
# a package of another profile is for trying: made fast, not small
dpkg-deb --root-owner-group "-z$([ "$profile" = release ] && echo 9 || echo 1)" --build "$stage" "$package" >&2
echo "$package"
