# SPDX-License-Identifier: MIT OR Apache-2.0
"""Reads MessagePack from a file without loading it: binary and extension payloads are stepped into or over, never read whole.

The format: https://github.com/msgpack/msgpack/blob/master/spec.md"""
from __future__ import annotations

import struct
from typing import BinaryIO, NamedTuple


class Broken(ValueError):
    """The bytes are no MessagePack, or end too early."""


class Token(NamedTuple):
    """One item's head. `size` is the bytes of a str, bin or ext payload, which the file is at; the items of an array or map."""

    kind: str  # "array", "map", "str", "bin", "ext", or "value"
    size: int
    value: object = None  # of a value; the type number of an ext


# First byte: kind, and the struct format of what follows it (a length, or the value itself).
SIZED = {
    0xC4: ("bin", ">B"), 0xC5: ("bin", ">H"), 0xC6: ("bin", ">I"), 0xC7: ("ext", ">B"), 0xC8: ("ext", ">H"), 0xC9: ("ext", ">I"),
    0xD9: ("str", ">B"), 0xDA: ("str", ">H"), 0xDB: ("str", ">I"), 0xDC: ("array", ">H"), 0xDD: ("array", ">I"),
    0xDE: ("map", ">H"), 0xDF: ("map", ">I"),
}
VALUES = {0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"}
SINGLES = {0xC0: None, 0xC2: False, 0xC3: True}


class Reader:
    """A place in a seekable file."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.end = file.seek(0, 2)
        file.seek(0)

    @property
    def place(self) -> int:
        return self.file.tell()

    def seek(self, place: int) -> None:
        if place > self.end:
            raise Broken(f"it ends at byte {self.end}, {place - self.end} bytes too early")
        self.file.seek(place)

    def bytes(self, n: int) -> bytes:
        data = self.file.read(n) if n <= self.end - self.place else b""
        if len(data) != n:
            raise Broken(f"it ends at byte {self.end}, where {n} more bytes belong at byte {self.place}")
        return data

    def token(self) -> Token:
        """Reads the head of the next item."""
        at = self.place
        first = self.bytes(1)[0]
        unpack = lambda form: struct.unpack(form, self.bytes(struct.calcsize(form)))[0]
        if first <= 0x7F or first >= 0xE0:
            return Token("value", 0, first if first <= 0x7F else first - 256)
        for low, high, kind in ((0x80, 0x8F, "map"), (0x90, 0x9F, "array"), (0xA0, 0xBF, "str")):
            if low <= first <= high:
                return Token(kind, first - low)
        if first in SINGLES:
            return Token("value", 0, SINGLES[first])
        if first in VALUES:
            return Token("value", 0, unpack(VALUES[first]))
        if 0xD4 <= first <= 0xD8:
            return Token("ext", 1 << (first - 0xD4), unpack(">b"))
        if first in SIZED:
            kind, form = SIZED[first]
            size = unpack(form)
            return Token(kind, size, unpack(">b") if kind == "ext" else None)
        raise Broken(f"byte {at} is {first:#x}, which begins nothing in MessagePack")

    def expect(self, kind: str) -> Token:
        at = self.place
        token = self.token()
        if token.kind != kind:
            raise Broken(f"byte {at} begins a {token.kind}, where a {kind} belongs")
        return token

    def text(self, limit: int = 1 << 12) -> str:
        """A str, or a bin that holds one."""
        at = self.place
        token = self.token()
        if token.kind not in ("str", "bin") or token.size > limit:
            raise Broken(f"byte {at} begins a {token.kind} of {token.size}, where a short text belongs")
        try:
            return self.bytes(token.size).decode()
        except UnicodeDecodeError as e:
            raise Broken(f"byte {at} begins text that is not UTF-8") from e
