# SPDX-License-Identifier: MIT OR Apache-2.0
"""What is exported is the same on every processor: bundles are told apart by their decoders' bytes."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
EXPORTS = """
import hashlib, json, sys, tempfile
from pathlib import Path
from elastictok_models import export
from elastictok_models.official import bundle, toy
from elastictok_models.official.checkpoint import Checkpoint
from elastictok_models.recover import config_of, recover, recover_head

out = Path(tempfile.mkdtemp(dir=sys.argv[1]))
for kind in ("fsq", "vae"):
    for numpy_version in (1, 2):
        cfg = toy.config(kind, max_sequence_length=16384)
        toy.checkpoint(out / f"{kind}.params", cfg)
        bundle.write(cfg, bundle.Export(numpy_version=numpy_version), Checkpoint(out / f"{kind}.params", cfg), out / f"{kind}-{numpy_version}")
builtin = Path(sys.argv[2])
cfg = config_of(builtin)
export.export(cfg, out / "builtin", recover(builtin, cfg), None, "", recover_head(builtin, cfg))
files = sorted(f for f in out.glob("*/*") if f.is_file())
print(json.dumps({str(f.relative_to(out)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}))
"""


def exports(folder: Path, **environment: str) -> dict[str, str]:
    """Digests of exported files by name, made in a process of its own with these variables."""
    command = [sys.executable, "-W", "ignore", "-c", EXPORTS, str(folder), str(HERE.parent / "models" / "builtin")]
    path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_bundles_are_the_same_without_the_processors_extensions(tmp_path):
    """As on a processor that has only what NumPy, PyTorch, OpenBLAS and the C library need at least."""
    pytest.importorskip("torch")
    core = pytest.importorskip("numpy._core._multiarray_umath")
    extensions = [name for name in core.__cpu_dispatch__ if core.__cpu_features__[name]]
    if not extensions:
        pytest.skip("NumPy has no kernels for this processor that could be switched off")
    plain = exports(tmp_path, NPY_DISABLE_CPU_FEATURES=" ".join(extensions), ATEN_CPU_CAPABILITY="default", OPENBLAS_CORETYPE="Prescott",
                    GLIBC_TUNABLES="glibc.cpu.hwcaps=-AVX2,-AVX,-FMA,-FMA4,-AVX512F")
    full = exports(tmp_path)
    assert len(full) == 4 * 3 + 4
    assert {name for name in full if full[name] != plain.get(name)} == set()
