#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Prints size, bitrate, PSNR and frames/s of a coded video: compare.py SOURCE.y4m DECODED.y4m CODED."""
import argparse
import os

import y4m


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("source")
    ap.add_argument("decoded")
    ap.add_argument("coded")
    ap.add_argument("--encode-seconds", type=float)
    ap.add_argument("--decode-seconds", type=float)
    a = ap.parse_args()
    source, decoded, size = y4m.read(a.source), y4m.read(a.decoded), os.path.getsize(a.coded)
    n = len(source.frames)
    if len(decoded.frames) != n:
        raise SystemExit(f"{n} frames went in and {len(decoded.frames)} came out")
    p = y4m.psnr(source, decoded)
    print(f"{n} frames of {source.width}x{source.height}: {size} bytes, {size * 8 / source.seconds / 1000:.1f} kbit/s, "
          f"{size * 8 / (n * source.luma):.4f} bit/pixel")
    print(f"PSNR Y {p[0]:.2f} dB, U {p[1]:.2f} dB, V {p[2]:.2f} dB")
    for name, seconds in (("encode", a.encode_seconds), ("decode", a.decode_seconds)):
        if seconds:
            print(f"{name}: {n / seconds:.1f} frames/s, start of the pipeline and file input and output included")


if __name__ == "__main__":
    main()
