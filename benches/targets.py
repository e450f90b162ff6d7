#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""What each target-psnr costs and gives: a higher one must never take fewer bits or give less quality.

usage: targets.py [--frames N] [--model DIR] CLIP...
Streams of one layer at 20, 23, .. 47 dB. A table of bytes / luma PSNR goes to standard output, points that break the rule marked with !.
The exit status is 1 if there are any."""
import argparse
import sys
import tempfile
from pathlib import Path

import encoders

TARGETS = range(20, 48, 3)


def points(path: Path, etok: encoders.ElasticTok, frames: int | None) -> list:
    """(bytes, dB) at each of TARGETS."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        clip, source = encoders.load(path, work, frames)
        found = []
        for target in TARGETS:
            etok.encode(clip, work / "o.etok", target)
            found.append(((work / "o.etok").stat().st_size, etok.point(work / "o.etok", source, work)[1]))
        return found


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("clips", nargs="+", type=Path)
    ap.add_argument("--frames", type=int, help="of each clip, from its beginning; default: all")
    ap.add_argument("--model", help="a bundle instead of the builtin one")
    a = ap.parse_args()
    encoders.build()
    etok, broken = encoders.ElasticTok(a.model), 0
    print("| clip | " + " | ".join(f"{t} dB" for t in TARGETS) + " |\n| --- |" + " --- |" * len(TARGETS))
    for path in a.clips:
        found = points(path, etok, a.frames)
        falls = [False] + [bool(y[0] < x[0] or y[1] < x[1]) for x, y in zip(found, found[1:])]
        broken += sum(falls)
        print(f"| {path.stem} | " + " | ".join(f"{n} / {q:.2f}{' !' * fell}" for (n, q), fell in zip(found, falls)) + " |", flush=True)
    print(f"\n{broken} of {len(a.clips) * (len(TARGETS) - 1)} steps take fewer bits or give less quality.")
    sys.exit(broken > 0)


if __name__ == "__main__":
    main()
