# SPDX-License-Identifier: MIT OR Apache-2.0
"""VP9 in layers of quality (libvpx, by vp9_svc.c), for ladder.py."""
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import encoders
import y4m

PROGRAM = encoders.ROOT / ".cache/vp9_svc"
SPEED, KEY_INTERVAL = 5, 240
CURVE = (4, 12, 20, 28, 36, 44, 52, 58, 63)


def build() -> bool:
    """Whether the program could be built: libvpx may not be there."""
    found = shutil.which("pkg-config") and subprocess.run(["pkg-config", "--exists", "vpx"]).returncode == 0
    if not found:
        print("libvpx is not there, so VP9 is left out; ./install-deps.sh --bench installs it", file=sys.stderr)
        return False
    flags = encoders.run("pkg-config", "--cflags", "--libs", "vpx").split()
    PROGRAM.parent.mkdir(exist_ok=True)
    encoders.run("cc", "-std=c11", "-O2", "-o", PROGRAM, encoders.ROOT / "benches/vp9_svc.c", *flags, "-lm")
    return True


@dataclass
class Vp9:
    """One clip. Points are (bits per pixel, luma dB)."""

    clip: Path
    source: y4m.Video
    cache: Path | None

    def points(self, quantisers: list) -> list:
        """Of one layer, of two, and so on, of a stream with these quantisers."""
        def encode():
            lines = encoders.run(PROGRAM, self.clip, SPEED, KEY_INTERVAL, ",".join(map(str, quantisers))).splitlines()
            return [(encoders.per_pixel(int(size), self.source), float(db)) for size, db in (line.split() for line in lines)]
        version = encoders.run("pkg-config", "--modversion", "vpx") + (encoders.ROOT / "benches/vp9_svc.c").read_text()
        return encoders.kept(self.cache, self.source, ["vp9", SPEED, KEY_INTERVAL, list(quantisers)], version, encode)

    def curve(self) -> list:
        """Of streams of one layer, at the quantisers of CURVE."""
        return [self.points([q])[0] for q in CURVE]

    def ladder(self, curve: list, rungs: list) -> list | None:
        """Of a stream whose rungs are as good as streams of one layer of these qualities in dB; None where the curve does not reach them."""
        worst_first = sorted(zip((db for _, db in curve), CURVE))
        dbs = [db for db, _ in worst_first]
        if rungs[0] < dbs[0] or rungs[-1] > dbs[-1]:
            return None
        return self.points([round(q) for q in np.interp(rungs, dbs, [q for _, q in worst_first])])
