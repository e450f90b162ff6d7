#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Prints size, bitrate, PSNR and frames/s of a coded video: compare.py SOURCE.i420 DECODED.i420 CODED.etok

Both videos are raw I420 as GStreamer's filesink writes it, and may be pipes; size and rate are read from the coded one."""
import argparse
import os
import re
import subprocess
from itertools import zip_longest

import numpy as np

import y4m


def coded_format(path) -> y4m.Format:
    """What the stream's header says, by way of elastictokparse."""
    args = ["gst-launch-1.0", "-v", "filesrc", f"location={path}", "!", "elastictokparse", "!", "fakesink"]
    text = subprocess.run(args, capture_output=True, text=True).stdout
    found = [re.search(rf"x-elastictok.* {k}=\({t}\)([\d/]+)", text) for k, t in (("width", "int"), ("height", "int"), ("framerate", "fraction"))]
    if not all(found):
        raise SystemExit(f"{path} is not an ElasticTok stream")
    w, h, rate = (m[1] for m in found)
    return y4m.Format(int(w), int(h), tuple(map(int, rate.split("/"))))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("source")
    ap.add_argument("decoded")
    ap.add_argument("coded")
    ap.add_argument("--encode-seconds", type=float)
    ap.add_argument("--decode-seconds", type=float)
    a = ap.parse_args()
    form, size = coded_format(a.coded), os.path.getsize(a.coded)
    source, decoded = y4m.RawReader(a.source, form), y4m.RawReader(a.decoded, form)
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
