"""The tensors of a small GGUF file, such as a control vector.

The package `gguf` keeps an object for every number of a list, gigabytes for a hostile file.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import numpy as np

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value by its type."""

_TEXT, _LIST = 8, 9
MOST_TENSORS = 10_000
_TYPES = {0: np.dtype("<f4"), 1: np.dtype("<f2")}
"""Types of tensors that are read; others are quantised."""


@dataclass
class _Reader:
    raw: bytes
    place: int = 0

    def number(self, kind: str) -> int:
        (found,) = struct.unpack_from(f"<{kind}", self.raw, self.place)
        self.place += struct.calcsize(f"<{kind}")
        return found

    def text(self) -> str:
        size = self.number("Q")
        self.place += size
        return self.raw[self.place - size : self.place].decode()

    def skip(self, kind: int) -> None:
        if kind == _TEXT:
            self.text()
        elif kind == _LIST:
            inner, n = self.number("I"), self.number("Q")
            if inner in _SIZES:
                self.place += n * _SIZES[inner]
            elif inner == _TEXT:
                for _ in range(n):
                    self.skip(inner)
            else:
                raise ValueError("it holds a list of lists")
        else:
            self.place += _SIZES[kind]


def gguf_tensors(raw: bytes) -> dict[str, np.ndarray]:
    """The tensors of a GGUF file by name, all of them in 16 or 32 bits.

    Raises:
        ValueError: It is damaged, of another version, or quantised.
    """
    try:
        return _tensors(_Reader(raw))
    except (struct.error, KeyError, OverflowError) as error:
        raise ValueError(f"it is no whole GGUF file: {error}") from error


def _tensors(file: _Reader) -> dict[str, np.ndarray]:
    if file.raw[:4] != b"GGUF":
        raise ValueError("it is no GGUF file")
    file.place = 4
    version, n_tensors, n_values = file.number("I"), file.number("Q"), file.number("Q")
    if version not in (2, 3) or n_tensors > MOST_TENSORS:
        raise ValueError(f"it has version {version} of GGUF and {n_tensors} tensors")
    alignment = 32
    for _ in range(n_values):
        name, kind = file.text(), file.number("I")
        if name == "general.alignment" and kind == 4:
            alignment = file.number("I") or 1
        else:
            file.skip(kind)
    described = []
    for _ in range(n_tensors):
        name, n_dims = file.text(), file.number("I")
        if n_dims > 4:
            raise ValueError(f"{name[:40]!r} has {n_dims} dimensions")
        shape = [file.number("Q") for _ in range(n_dims)][::-1]
        described.append((name, shape, file.number("I"), file.number("Q")))
    start = -(-file.place // alignment) * alignment
    tensors, left = {}, len(file.raw)
    for name, shape, kind, offset in described:
        if kind not in _TYPES:
            raise ValueError(f"{name!r} is quantised")
        n = math.prod(shape)
        left -= n * _TYPES[kind].itemsize
        if left < 0:
            raise ValueError(f"{name!r} is longer than the file")
        tensors[name] = np.frombuffer(file.raw, _TYPES[kind], n, start + offset).reshape(shape)
    return tensors
