#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Installs a package built by deb.sh where nothing of this project is, runs it, removes it, and checks that nothing is left. Needs root.
#
# usage: packaging/test-deb.sh [--fresh] PACKAGE.deb
#   without --fresh: in a throw-away copy-on-write view of this system, whose packages must satisfy the package's dependencies; seconds
#   --fresh: in a new Debian made by debootstrap, with what apt installs for the package; minutes, and a network
# Environment: SUITE (default bookworm)
set -eu
fresh=
[ "${1:-}" != --fresh ] || { fresh=1; shift; }
[ $# -eq 1 ] || { sed -n '5,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
say() { echo "test-deb.sh: $*" >&2; }
die() { say "$*"; exit 1; }
[ -f "$1" ] || die "there is no package $1; build one with packaging/deb.sh"
[ "$(id -u)" -eq 0 ] || die "this needs root: mounts and a root folder of its own"
package=$(realpath "$1")
name=$(dpkg-deb -f "$package" Package)
if [ -z "${ELASTICTOK_TEST_DEB:-}" ]; then
    # what is mounted here is unmounted with the process
    exec env ELASTICTOK_TEST_DEB=1 unshare --mount --propagation private "$0" ${fresh:+--fresh} "$package"
fi
work=$(mktemp -d)
root=$work/root
cleanup() {
    for m in "$root/proc" "$root/dev" "$root" "$work"; do umount -l "$m" 2>/dev/null || true; done
    rm -rf --one-file-system "$work"
}
trap cleanup EXIT
if [ -n "$fresh" ]; then
    command -v debootstrap >/dev/null || die "debootstrap is missing; install it"
    debootstrap --variant=minbase "${SUITE:-bookworm}" "$root" >&2
    mount -t proc proc "$root/proc"
else
    mount -t tmpfs tmpfs "$work"
    mkdir "$work/upper" "$work/scratch" "$root"
    mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/scratch" "$root"
    mount --bind /dev "$root/dev"
    mount -t proc proc "$root/proc"
fi
cp "$package" "$root/package.deb"
# No variable of this session, and an empty home: what runs must come from the package.
within() { env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/nonexistent-home DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 GST_REGISTRY=/tmp/registry.bin chroot "$root" "$@"; }
listing() { (cd "$root" && find etc usr opt srv var/lib -path var/lib/dpkg -prune -o -path var/lib/apt -prune -o -print 2>/dev/null | sort); }
if [ -n "$fresh" ]; then
    within apt-get install -y -qq --no-install-recommends gstreamer1.0-tools gstreamer1.0-plugins-base >/dev/null
    listing >"$work/before"
    within apt-get install -y -qq --no-install-recommends /package.deb >/dev/null
else
    listing >"$work/before"
    within dpkg --install /package.deb >/dev/null
fi
say "installed: $(within dpkg-query -L "$name" | xargs -I{} sh -c '[ -d "$1{}" ] || echo' sh "$root" | wc -l) files"

within gst-inspect-1.0 elastictok | grep -q 'elastictokenc: ElasticTok video encoder' || die "gst-inspect-1.0 does not show the plugin"
for element in elastictokenc elastictokdec elastictokparse elastictokthin; do
    within gst-inspect-1.0 "$element" >/dev/null || die "gst-inspect-1.0 does not find $element"
done
within env GST_DEBUG=elastictok:5 GST_DEBUG_NO_COLOR=1 gst-launch-1.0 -q videotestsrc num-buffers=12 ! video/x-raw,width=96,height=64 ! elastictokenc ! filesink location=/tmp/test.etok 2>"$work/log" ||
    { cat "$work/log" >&2; die "encoding fails"; }
grep -q 'ONNX Runtime from .*/elastictok/libonnxruntime' "$work/log" || { cat "$work/log" >&2; die "the ONNX Runtime library of the package is not the one in use"; }
within gst-launch-1.0 -q filesrc location=/tmp/test.etok ! elastictokparse ! elastictokdec ! filesink location=/tmp/test.yuv
[ "$(stat -c %s "$root/tmp/test.yuv")" -eq $((12 * 96 * 64 * 3 / 2)) ] || die "twelve frames did not come back"
within gst-inspect-1.0 elastictokenc >"$work/inspect"
for preset in camera screen archive; do
    grep -q "\"$preset\"" "$work/inspect" || die "the encoder does not list the preset $preset"
done
if within test -x /usr/bin/etok; then
    within etok info /tmp/test.etok >/dev/null || die "etok info fails"
    gzip -dc "$root/usr/share/man/man1/etok.1.gz" | grep -q etok || die "etok has no manual page"
fi
within dpkg --verify "$name"
for file in copyright changelog.gz onnxruntime-ThirdPartyNotices.txt.gz; do
    [ -s "$root/usr/share/doc/$name/$file" ] || die "the package has no $file"
done
say "works"

within dpkg --purge "$name" >/dev/null
listing >"$work/after"
if [ -n "$fresh" ]; then
    # apt brought dependencies with it, which stay
    grep -i elastictok "$work/after" >"$work/left" || true
else
    diff "$work/before" "$work/after" >"$work/left" || true
fi
[ ! -s "$work/left" ] || { cat "$work/left" >&2; die "this is left after the package was removed"; }
if within gst-inspect-1.0 elastictokenc >/dev/null 2>&1; then die "the plugin is still found"; fi
say "removed, and nothing is left"
