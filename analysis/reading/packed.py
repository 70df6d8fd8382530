"""A finished study as one file to hand over: a plain zip, written alike and opened with care."""

from __future__ import annotations

import io
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from tempfile import TemporaryDirectory
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from lofit_lens.errors import LofitLensError

MOST_FILES, MOST_BYTES, LONGEST_LIST = 100_000, 2 * 2**30, 32 * 2**20
"""What is unpacked at most: files, bytes of all of them, and bytes of the list of them."""

_END, _END_64, _SHORTEST = b"PK\5\6", b"PK\6\7", 42
"""How the last record of a zip begins, and that of a zip of a larger kind before it."""


def packed_bytes(folder: Path, files: Sequence[Path]) -> bytes:
    """A zip with one folder in it; the same bytes for the same files.

    Args:
        folder: The folder.
        files: Files inside it.
    """
    content = io.BytesIO()
    with ZipFile(content, "w") as archive:
        for path in sorted(files):
            name = PurePosixPath(folder.resolve().name, path.relative_to(folder).as_posix())
            info = ZipInfo(str(name))  # of 1980
            info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o644) << 16
            info.compress_type = ZIP_DEFLATED
            archive.writestr(info, path.read_bytes())
    return content.getvalue()


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """The folder in a packed study, for the time of the context.

    Raises:
        LofitLensError: It is no zip, is damaged or too large, or would write outside its folder.
    """
    with TemporaryDirectory(prefix="lofit-lens-") as place:
        try:
            _check_end(path)
            with ZipFile(path) as archive:
                top = _check_entries(path, archive.infolist())
                archive.extractall(place)
        except (BadZipFile, EOFError, OSError, RuntimeError, ValueError, zlib.error) as error:
            raise LofitLensError(f"{path} cannot be unpacked: {error}.") from error
        yield Path(place) / top


def _check_end(path: Path) -> None:
    """Refuse what is no plain zip, before its list of files is read into memory."""
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - _SHORTEST))
        end = file.read()
    record = end[-22:]
    if not record.startswith(_END) or record[-2:] != b"\0\0" or end.startswith(_END_64):
        raise LofitLensError(
            f"{path} is no folder, and no zip as `lofit-lens pack` writes it. Give one of the two."
        )
    if int.from_bytes(record[12:16], "little") > LONGEST_LIST:
        raise LofitLensError(
            f"{path} lists more files than the {MOST_FILES:,} that are unpacked at most."
        )


def _check_entries(path: Path, entries: Sequence[ZipInfo]) -> str:
    """Refuse files that must not be written; returns the name of the one folder that holds all."""
    for entry in entries:
        name, kind = entry.filename, stat.S_IFMT(entry.external_attr >> 16)
        parts = PurePosixPath(name).parts
        if (
            name.startswith("/")
            or ".." in parts
            or "\\" in name
            or PureWindowsPath(name).drive
            or kind not in (0, stat.S_IFREG, stat.S_IFDIR)
        ):
            raise LofitLensError(
                f"{path} holds {name!r}, which is a link or lies outside its folder; nothing was unpacked."
            )
        if entry.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
            raise BadZipFile(f"{name!r} is not compressed by deflate")
    total = sum(entry.file_size for entry in entries)
    if len(entries) > MOST_FILES or total > MOST_BYTES:
        raise LofitLensError(
            f"{path} holds {len(entries):,} files of {total:,} bytes; at most {MOST_FILES:,} files of "
            f"{MOST_BYTES:,} bytes are unpacked. Unpack it yourself if you trust it, and give the folder."
        )
    tops = {PurePosixPath(entry.filename).parts[:1] for entry in entries}
    if len(tops) != 1 or all(len(PurePosixPath(e.filename).parts) < 2 for e in entries):
        raise LofitLensError(
            f"{path} does not hold one folder with a study in it. Pack a folder with `lofit-lens pack`."
        )
    return tops.pop()[0]
