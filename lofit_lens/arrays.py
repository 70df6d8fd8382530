"""The door for arrays that others wrote: NumPy, safetensors and GGUF within limits; no pickle."""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from tokenize import TokenError
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lofit_lens.documents import MOST_BYTES
from lofit_lens.errors import LofitLensError
from lofit_lens.gguf_tensors import gguf_tensors

PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".joblib")
MOST_ARRAYS = 10_000

LONGEST_HEADER = 16 * 2**20
"""Bytes that describe the tensors of a safetensors file, some 100 for each."""

_HEADERS: Mapping[Any, Any] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_arrays(path: Path) -> dict[str, Tensor]:
    """The arrays of a file by their names, in float32; that of a `.npy` has an empty one.

    Args:
        path: A `.npy`, `.npz`, `.safetensors` or `.gguf`.

    Raises:
        LofitLensError: There is no such file, it is too large, damaged or of another format, or holds
            something else than numbers; or it is a pickle, which is not read.
    """
    ending = path.suffix.lower()
    if ending in PICKLED:
        raise LofitLensError(_why_no_pickle(path))
    if ending not in _READERS:
        raise LofitLensError(f"{path} is none of {', '.join(_READERS)}.")
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"it is longer than {MOST_BYTES // 2**20} MB")
        return {name: _floats(name, array) for name, array in _READERS[ending](path).items()}
    except FileNotFoundError as error:
        raise LofitLensError(f"There is no file {path}.") from error
    except (OSError, EOFError, ValueError, SafetensorError, LofitLensError) as error:
        raise LofitLensError(f"{path} cannot be read: {str(error).rstrip('.')}.") from error


def npy_array(raw: bytes) -> np.ndarray:
    """The array of a `.npy` file, whose header is believed only as far as there are numbers.

    Raises:
        ValueError: It is damaged, or holds no plain numbers.
    """
    file = io.BytesIO(raw)
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"the version {version} of its format is not known")
    try:
        shape, _, dtype = _HEADERS[version](file)
    except (SyntaxError, TokenError) as error:
        raise ValueError(f"its header is damaged: {error}") from error
    if dtype.kind not in "iuf" or math.prod(shape) * dtype.itemsize > len(raw):
        raise ValueError(f"it holds numbers of type {dtype} in the shape {shape}")
    file.seek(0)
    return np.load(file, allow_pickle=False)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, as they are.

    Raises:
        LofitLensError: It lists far too many tensors.
        OSError, SafetensorError: It cannot be read, or is damaged.
    """
    with path.open("rb") as file:
        if int.from_bytes(file.read(8), "little") > LONGEST_HEADER:
            raise LofitLensError(f"its header is longer than {LONGEST_HEADER // 2**20} MB")
    return load_file(path)


def _npz_arrays(path: Path) -> dict[str, np.ndarray]:
    raw = path.read_bytes()
    if raw.count(b"PK\1\2") > MOST_ARRAYS:
        raise ValueError(f"it holds more than {MOST_ARRAYS:,} arrays")
    try:
        with ZipFile(io.BytesIO(raw)) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > MOST_BYTES:
                raise ValueError(f"unpacked, it is longer than {MOST_BYTES // 2**20} MB")
            return {
                entry.filename.removesuffix(".npy"): npy_array(archive.read(entry))
                for entry in entries
            }
    except (BadZipFile, zlib.error, RuntimeError, NotImplementedError) as error:
        raise ValueError(f"it is no plain zip: {error}") from error


_READERS: Mapping[str, Any] = {
    ".npy": lambda path: {"": npy_array(path.read_bytes())},
    ".npz": _npz_arrays,
    ".safetensors": read_safetensors,
    ".gguf": lambda path: gguf_tensors(path.read_bytes()),
}


def _floats(name: str, array: np.ndarray | Tensor) -> Tensor:
    found = torch.from_numpy(array.astype(np.float32)) if isinstance(array, np.ndarray) else array
    if found.is_complex() or found.dtype == torch.bool:
        raise ValueError(f"{name!r} holds numbers of type {found.dtype}")
    return found.float()


def _why_no_pickle(path: Path) -> str:
    new = path.with_suffix(".safetensors").name
    return (
        f"{path} is a pickle, which can run code when it is read, so it is not read. If you trust it, "
        f'write it anew, once:\n  python -c "import torch; from safetensors.torch import save_file; '
        f"found = torch.load('{path.name}', weights_only=True); "
        f"save_file({{str(k): v.contiguous() for k, v in found.items()}}, '{new}')\"\n"
        "(found is a dictionary from layers to tensors here; of a single tensor, write {'LAYER': found}; "
        "of an object of steering-vectors, its layer_activations.)"
    )
