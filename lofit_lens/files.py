"""JSON files of ours, plain and gzipped."""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from lofit_lens.documents import MOST_BYTES, check_schema, decoded
from lofit_lens.errors import LofitLensError

T = TypeVar("T")


def read_json(path: str | Path, *, schema: int, what: str) -> dict[str, Any]:
    """Read a JSON file of ours and check its schema number.

    Raises:
        LofitLensError: The file is missing, not JSON within limits, or of another schema.
    """
    return _read(Path(path), dict, schema, what)


def read_as(path: str | Path, build: Callable[[Any], T], *, schema: int, what: str) -> T:
    """Read a JSON file of ours, gzipped or not, and build something from what is beside its schema.

    Raises:
        LofitLensError: The file is missing, of another schema, or does not hold what is wanted; the
            message says where in it, what was found and what was expected.
    """
    return _read(
        Path(path),
        lambda content: build({k: v for k, v in content.items() if k != "schema"}),
        schema,
        what,
    )


def _read(path: Path, build: Callable[[Any], T], schema: int, what: str) -> T:
    try:
        content = decoded(whole(path))
        check_schema(content, schema)
        return build(content)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise LofitLensError(f"No {what} at {path}.") from error
    except (OSError, LofitLensError) as error:
        told = str(error).rstrip(".")
        raise LofitLensError(f"The {what} at {path} cannot be read: {told}.") from error


def read_json_gz(path: str | Path, build: Callable[[Any], T], *, what: str) -> T:
    """Read a gzipped JSON file and build something from it.

    Raises:
        LofitLensError: The file is missing, or does not hold what is wanted; the message says where
            in it, what was found and what was expected.
    """
    try:
        return build(decoded(whole(Path(path))))
    except (OSError, LofitLensError) as error:
        raise LofitLensError(f"{path} does not hold {what}: {str(error).rstrip('.')}.") from error


def marker_in(folder: str | Path, name: str) -> dict[str, Any] | None:
    """The JSON document by which a folder is known; None if it is not there or cannot be read."""
    try:
        content = decoded(whole(Path(folder) / name))
    except (OSError, LofitLensError):
        return None
    return content if isinstance(content, dict) else None


def unzipped(content: bytes) -> bytes:
    """The content of a gzip file, as long as a document may be.

    Raises:
        LofitLensError: It is longer, cut, damaged, or not a gzip file.
    """
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            found = file.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise LofitLensError(f"not a whole gzip file: {error}") from error
    if len(found) > MOST_BYTES:
        raise LofitLensError(f"it is longer than {MOST_BYTES // 2**20} MB, unzipped")
    return found


def whole(path: Path) -> bytes:
    """The bytes of a document, unzipped; a little more than may be of one that is too long.

    Raises:
        LofitLensError: It is a damaged gzip file.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    return unzipped(content) if content.startswith(b"\x1f\x8b") else content


def write_json(path: str | Path, content: Mapping[str, Any], *, indent: int | None = 1) -> Path:
    """Write JSON, whole; readable, or on one line if `indent` is None."""
    text = json.dumps(content, indent=indent, ensure_ascii=False)
    return write_whole(path, f"{text}\n".encode())


def write_json_gz(path: str | Path, content: Mapping[str, Any]) -> Path:
    """Write a gzipped JSON file, the same bytes for the same content."""
    text = json.dumps(content, ensure_ascii=False)
    return write_whole(path, gzip.compress(text.encode(), mtime=0))


def write_whole(path: str | Path, content: bytes) -> Path:
    """Write a file, and its folder, so that a run cut short leaves the old one and no half file.

    Raises:
        OSError: It cannot be written; the error names it, and says what to do where the disk is full.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{uuid4().hex}.partial")  # others may write it too
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(content)
            with partial.open("rb+") as written:
                os.fsync(written.fileno())  # on the disk before it has its name
            return partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        error.filename = str(path)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            error.add_note("What was finished before is kept. Make room, then go on with --resume.")
        raise
