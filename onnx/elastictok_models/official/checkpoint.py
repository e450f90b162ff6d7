# SPDX-License-Identifier: MIT OR Apache-2.0
"""Official checkpoints: a concatenation of MessagePack pairs (key path, array), read one layer at a time.

`params` holds the model alone; `streaming_train_state` holds it under "params" (once or twice) beside the optimiser's state, which
is skipped. An array is bytes of extension type 1 around [shape, dtype name, raw little-endian C-order values]."""
from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from .config import Config
from .msgpack import Broken, Reader

ARRAY = 1  # extension type
DTYPES = {"bfloat16": np.dtype("<u2"), "float16": np.dtype("<f2"), "float32": np.dtype("<f4")}
CHUNK = 1 << 20  # values read at a time where order does not matter
MOST_LINES = 60  # of a list of faults
UNSTACKED = re.compile(r"((encoder|decoder)/\2_blocks)/(\d+)/(.+)")


class CheckpointError(ValueError):
    """A file that is no checkpoint of this model; the message lists every fault found."""


@dataclass
class Entry:
    """Where a tensor lies. Layers that were saved one by one count as one tensor with several parts."""

    shape: tuple[int, ...]
    dtype: str
    places: list[int]  # byte offset of each part; one unless layers are apart


def widen(raw: np.ndarray, dtype: str) -> np.ndarray:
    """Stored values as float32; bfloat16 is the upper half of it."""
    if dtype == "bfloat16":
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32)


def _array(reader: Reader, key: str) -> Entry:
    """Reads the head of an array inside a bin and leaves its values alone."""
    head = reader.token()
    if head.kind == "map":
        raise Broken(f"tensor {key} is split into chunks (an array above 1 GiB), which is not read; save it as bfloat16")
    if head.kind != "ext" or head.value != ARRAY:
        raise Broken(f"{key} holds a {head.kind}, where an array belongs")
    if reader.expect("array").size != 3:
        raise Broken(f"{key} holds an array that is not [shape, dtype, values]")
    shape = []
    for _ in range(reader.expect("array").size):
        n = reader.expect("value").value
        if type(n) is not int or n < 0:
            raise Broken(f"tensor {key} has {n!r} in its shape")
        shape.append(n)
    dtype = reader.text()
    size = reader.expect("bin").size
    if dtype in DTYPES and size != prod(shape) * DTYPES[dtype].itemsize:
        raise Broken(f"tensor {key} of {dtype} {shape} holds {size} bytes")
    return Entry(tuple(shape), dtype, [reader.place])


def index(path: Path) -> tuple[dict[str, Entry], list[str]]:
    """Every tensor of the model in the file by key path, and the keys that were skipped as they are no part of the model.

    Raises CheckpointError if the file cannot be read, is cut short or is no such file."""
    pairs: list[tuple[list[str], Entry | str]] = []
    keys = 0
    try:
        with open(path, "rb") as file:
            reader = Reader(file)
            if reader.end == 0:
                raise Broken("it is empty")
            while reader.place < reader.end:
                if reader.expect("array").size != 2:
                    raise Broken(f"byte {reader.place} begins no pair of key path and array")
                parts = [reader.text() for _ in range(reader.expect("array").size)]
                keys += 1
                size = reader.expect("bin").size
                after = reader.place + size
                if after > reader.end:
                    name = "/".join(parts)
                    raise Broken(f"tensor {name} is cut short: the file has {reader.end} bytes, it would end at {after}")
                try:
                    entry = _array(reader, "/".join(parts))
                except Broken as e:
                    entry = str(e)
                pairs.append((parts, entry))
                reader.seek(after)
    except OSError as e:
        raise CheckpointError(f"{path} cannot be read: {e.strerror}; name the checkpoint file (params or streaming_train_state)") from e
    except Broken as e:
        if keys == 0:
            raise CheckpointError(f"{path} is no official ElasticTok checkpoint: {e}; name the file params or streaming_train_state") from e
        raise CheckpointError(f"{path} is damaged or incomplete: {e}; it was whole up to tensor {keys - 1}; download it again") from e
    return _sorted(path, pairs)


def _sorted(path: Path, pairs: list) -> tuple[dict[str, Entry], list[str]]:
    train_state = any(parts[0] == "params" for parts, _ in pairs if parts)
    entries, skipped, faults, layers = {}, [], [], {}
    for parts, entry in pairs:
        if train_state:
            if parts[:1] != ["params"]:
                skipped.append("/".join(parts))
                continue
            parts = parts[2:] if parts[1:2] == ["params"] else parts[1:]
        key = "/".join(parts)
        if isinstance(entry, str):
            faults.append(entry)
        elif alone := UNSTACKED.fullmatch(key):
            layers.setdefault(f"{alone[1]}/scan_decoder/{alone[4]}", {})[int(alone[3])] = entry
        elif key in entries:
            faults.append(f"{key} is there twice")
        else:
            entries[key] = entry
    for key, found in layers.items():
        first = found[min(found)]
        if sorted(found) != list(range(len(found))) or any((e.shape, e.dtype) != (first.shape, first.dtype) for e in found.values()):
            faults.append(f"{key}: its layers {sorted(found)} do not follow one another or differ in shape or dtype")
        entries[key] = Entry((len(found), *first.shape), first.dtype, [found[i].places[0] for i in sorted(found)])
    if faults:
        raise CheckpointError(_listed(f"{path} is no whole checkpoint", faults, "download it again"))
    return entries, skipped


def _listed(head: str, faults: list[str], remedy: str) -> str:
    more = [f"and {len(faults) - MOST_LINES} more"] if len(faults) > MOST_LINES else []
    return "\n  ".join([f"{head} ({len(faults)} faults; {remedy}):", *faults[:MOST_LINES], *more])


def _looks_like(entries: dict[str, Entry]) -> str:
    """What sizes the tensors speak of, for error messages."""
    told = {}
    shape = lambda key: entries[key].shape if key in entries else ()
    for name, key, rank, axis in (
        ("hidden_size", "encoder/in_proj/kernel", 2, 1), ("patch_dim", "encoder/in_proj/kernel", 2, 0),
        ("intermediate_size", "encoder/encoder_blocks/scan_decoder/feed_forward/w1/kernel", 3, 2),
        ("num_encoder_layers", "encoder/encoder_blocks/scan_decoder/feed_forward/w1/kernel", 3, 0),
        ("num_decoder_layers", "decoder/decoder_blocks/scan_decoder/feed_forward/w1/kernel", 3, 0),
        ("token dimensions", "decoder/post_quant/kernel", 2, 0),
    ):
        if len(shape(key)) == rank:
            told[name] = shape(key)[axis]
    pre, post = shape("encoder/pre_quant/kernel"), shape("decoder/post_quant/kernel")
    if len(pre) == len(post) == 2:
        told["bottleneck_type"] = "vae" if pre[1] == 2 * post[0] else "fsq"
    return ", ".join(f"{k} {v}" for k, v in told.items())


class Checkpoint:
    """An open checkpoint that holds exactly the tensors of `cfg`.

    Raises CheckpointError with every missing, extra or misshapen tensor and every dtype that is not known."""

    def __init__(self, path: Path, cfg: Config):
        self.path = Path(path)
        self.entries, self.skipped = index(self.path)
        shapes = cfg.shapes()
        faults = [f"{key} is missing; it would be {list(shape)}" for key, shape in shapes.items() if key not in self.entries]
        for key, entry in self.entries.items():
            if key not in shapes:
                faults.append(f"{key} {list(entry.shape)} is extra")
            elif entry.shape != shapes[key]:
                faults.append(f"{key} is {list(entry.shape)}, not {list(shapes[key])}")
            elif entry.dtype not in DTYPES:
                faults.append(f"{key} is {entry.dtype}, not {', '.join(DTYPES)}")
        if faults:
            looks = _looks_like(self.entries)
            remedy = "give the settings it was trained with by --config, --config-json or --update"
            raise CheckpointError(_listed(f"{path} is no checkpoint of these settings", faults,
                                          f"{remedy}; its tensors speak of {looks}" if looks else "name an ElasticTok checkpoint"))

    def _raw(self, key: str, start: int, count: int, part: int = 0) -> np.ndarray:
        entry = self.entries[key]
        dtype = DTYPES[entry.dtype]
        with open(self.path, "rb") as file:
            raw = np.fromfile(file, dtype, count, offset=entry.places[part] + start * dtype.itemsize)
        if len(raw) != count:
            raise CheckpointError(f"{self.path} became shorter while it was read; start again")
        return raw

    def read(self, key: str, layer: int | None = None) -> np.ndarray:
        """A tensor, or one layer of a stacked one, as float32."""
        entry = self.entries[key]
        if layer is None and len(entry.places) > 1:
            return np.stack([self.read(key, i) for i in range(entry.shape[0])])
        if layer is None:
            return widen(self._raw(key, 0, prod(entry.shape)), entry.dtype).reshape(entry.shape)
        shape = entry.shape[1:]
        part, start = (layer, 0) if len(entry.places) > 1 else (0, layer * prod(shape))
        return widen(self._raw(key, start, prod(shape), part), entry.dtype).reshape(shape)

    def chunks(self, key: str) -> Iterator[np.ndarray]:
        """All values of a tensor as float32, a piece at a time."""
        entry = self.entries[key]
        total = prod(entry.shape) // len(entry.places)
        for part in range(len(entry.places)):
            for start in range(0, total, CHUNK):
                yield widen(self._raw(key, start, min(CHUNK, total - start), part), entry.dtype)

    def check_finite(self) -> None:
        """Raises CheckpointError that lists the tensors with NaN or infinite values."""
        faults = []
        for key, entry in self.entries.items():
            bad = sum(int(np.count_nonzero(~np.isfinite(piece))) for piece in self.chunks(key))
            if bad:
                faults.append(f"{key}: {bad} of {prod(entry.shape)} values are NaN or infinite")
        if faults:
            remedy = "the training diverged or the file is damaged"
            raise CheckpointError(_listed(f"{self.path} has weights that are no numbers", faults, remedy))
