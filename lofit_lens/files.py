"""JSON files of ours, plain and gzipped."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from lofit_lens.errors import LofitLensError

T = TypeVar("T")


def read_json(path: str | Path, *, schema: int, what: str) -> dict[str, Any]:
    """Read a JSON file of ours and check its schema number.

    Raises:
        LofitLensError: The file is missing, not JSON, or of another schema.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise LofitLensError(f"No {what} at {path}.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise LofitLensError(f"The {what} at {path} cannot be read: {error}.") from error
    found = content.get("schema") if isinstance(content, dict) else None
    if found != schema:
        raise LofitLensError(
            f"The {what} at {path} cannot be read: schema {found!r}, this version reads {schema}."
        )
    return content


def marker_in(folder: str | Path, name: str) -> dict[str, Any] | None:
    """The JSON document by which a folder is known; None if it is not there or cannot be read."""
    try:
        content = json.loads((Path(folder) / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def write_json(path: str | Path, content: Mapping[str, Any], *, indent: int | None = 1) -> Path:
    """Write JSON, whole; readable, or on one line if `indent` is None."""
    text = json.dumps(content, indent=indent, ensure_ascii=False)
    return write_whole(path, f"{text}\n".encode())


def write_json_gz(path: str | Path, content: Mapping[str, Any]) -> Path:
    """Write a gzipped JSON file, the same bytes for the same content."""
    text = json.dumps(content, ensure_ascii=False)
    return write_whole(path, gzip.compress(text.encode(), mtime=0))


def write_whole(path: str | Path, content: bytes) -> Path:
    """Write a file, and its folder, so that a run cut short leaves the old one and no half file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid4().hex}.partial")  # others may write it too
    try:
        partial.write_bytes(content)
        with partial.open("rb+") as written:
            os.fsync(written.fileno())  # on the disk before it has its name
        return partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_json_gz(path: str | Path, build: Callable[[Any], T], *, what: str) -> T:
    """Read a gzipped JSON file and build something from it.

    Raises:
        LofitLensError: The file is missing, or does not hold what is wanted.
    """
    try:
        return build(json.loads(gzip.decompress(Path(path).read_bytes())))
    except (OSError, EOFError, zlib.error, ValueError, TypeError, AttributeError, KeyError) as e:
        raise LofitLensError(f"{path} does not hold {what}: {e}.") from e
