# SPDX-License-Identifier: MIT OR Apache-2.0
"""Writes checkpoints in the official format: for small trained models, and for tests."""
from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np


def _head(kind: str, size: int) -> bytes:
    medium, large = {"str": (0xDA, 0xDB), "bin": (0xC5, 0xC6), "array": (0xDC, 0xDD), "ext": (0xC8, 0xC9)}[kind]
    if kind == "array" and size < 16:
        return bytes([0x90 | size])
    return struct.pack(">BH", medium, size) if size < 1 << 16 else struct.pack(">BI", large, size)


def _text(value: str) -> bytes:
    data = value.encode()
    return _head("str", len(data)) + data


def _integer(value: int) -> bytes:
    return struct.pack(">BI", 0xCE, value)


def narrow(array: np.ndarray) -> np.ndarray:
    """float32 to the 16-bit patterns of bfloat16, rounded to the nearest, ties to even."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2")


def record(parts: Iterable[str], array: np.ndarray, dtype: str = "bfloat16") -> bytes:
    """One pair of key path and array; `dtype` is "bfloat16", "float16" or "float32"."""
    raw = (narrow(array) if dtype == "bfloat16" else np.asarray(array).astype({"float16": "<f2", "float32": "<f4"}[dtype])).tobytes()
    shape = _head("array", array.ndim) + b"".join(_integer(n) for n in array.shape)
    payload = _head("array", 3) + shape + _text(dtype) + _head("bin", len(raw)) + raw
    value = _head("ext", len(payload)) + b"\x01" + payload
    parts = list(parts)
    return _head("array", 2) + _head("array", len(parts)) + b"".join(map(_text, parts)) + _head("bin", len(value)) + value


def save(path: Path, tensors: Iterable[tuple[str, np.ndarray]], dtype: str = "bfloat16", prefix: tuple[str, ...] = ()) -> None:
    """Writes pairs of key path (with slashes) and float32 array; `prefix` goes before each key path."""
    with open(path, "wb") as file:
        for key, array in tensors:
            file.write(record((*prefix, *key.split("/")), array, dtype))
