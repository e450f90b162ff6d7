#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Prints size, bitrate, PSNR and frames/s of a coded video: compare.py SOURCE.y4m DECODED.y4m CODED. Both videos may be pipes."""
import argparse
import os
from itertools import zip_longest

import numpy as np

import y4m


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("source")
    ap.add_argument("decoded")
    ap.add_argument("coded")
    ap.add_argument("--encode-seconds", type=float)
    ap.add_argument("--decode-seconds", type=float)
    a = ap.parse_args()
    source, decoded = y4m.Reader(a.source), y4m.Reader(a.decoded)
    form, size = source.format, os.path.getsize(a.coded)
    if (form.width, form.height) != (decoded.format.width, decoded.format.height):
        raise SystemExit(f"{form.width}x{form.height} went in and {decoded.format.width}x{decoded.format.height} came out")
    went_in = came_out = 0
    sums = np.zeros(3)
    for x, y in zip_longest(source, decoded):
        went_in, came_out = went_in + (x is not None), came_out + (y is not None)
        if x is not None and y is not None:
            sums += y4m.frame_psnr(form, x, y)
    if went_in != came_out or not went_in:
        raise SystemExit(f"{went_in} frames went in and {came_out} came out")
    n, p = went_in, sums / went_in
    rate, per = form.rate
    bitrate = f"{size * 8 * rate / per / n / 1000:.1f} kbit/s" if rate else "variable frame rate"
    print(f"{n} frames of {form.width}x{form.height}: {size} bytes, {bitrate}, {size * 8 / (n * form.luma):.4f} bit/pixel")
    print(f"PSNR Y {p[0]:.2f} dB, U {p[1]:.2f} dB, V {p[2]:.2f} dB")
    for name, seconds in (("encode", a.encode_seconds), ("decode", a.decode_seconds)):
        if seconds:
            print(f"{name}: {n / seconds:.1f} frames/s, with the start of the pipeline and reading the file")


if __name__ == "__main__":
    main()
