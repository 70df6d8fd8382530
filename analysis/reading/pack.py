"""Packing a finished study."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from lofit_lens.analysis.reading.open import open_study
from lofit_lens.analysis.reading.packed import packed_bytes
from lofit_lens.edits.files import FILES as EDIT_FILES
from lofit_lens.errors import LofitLensError
from lofit_lens.files import write_whole

if TYPE_CHECKING:
    from lofit_lens.analysis.reading.study import Study


def pack(folder: str | Path, out: str | Path | None = None, *, edits: bool = False) -> Path:
    """Write a finished study or run as one zip, which `open_study` and `report` read anywhere.

    The same files give the same bytes. Hidden files and links are left out. What was written is
    opened before it counts.

    Args:
        folder: What `open_study` reads.
        out: The file, replaced if it is there; default: `FOLDER.zip` beside the folder.
        edits: Whether to take along the edits, which are numbers learned from the training data.

    Returns:
        The file.

    Raises:
        LofitLensError: There is no finished run in the folder, or without its edits it could not be
            read back.
    """
    folder = Path(folder)
    if folder.is_file():
        raise LofitLensError(f"{folder} is a file; name the folder of a finished run.")
    study, root = open_study(folder), folder.resolve()
    out = place_of(folder, out)
    if out.is_dir():
        raise LofitLensError(f"{out} is a folder; name a file, as {out / 'study.zip'}.")
    files = [path for path in _files(root) if path != out and (edits or not _of_edit(path))]
    content = packed_bytes(root, files)
    with TemporaryDirectory(prefix="lofit-lens-") as place:
        lost = _parts(study) - _parts(_opened(write_whole(Path(place) / out.name, content)))
    if lost:
        raise LofitLensError(
            f"Packed without its edits, {folder} would lose {', '.join(sorted(lost))}. Give --edits "
            "(edits=True), if whoever gets it may have them."
        )
    return write_whole(out, content)


def place_of(folder: str | Path, out: str | Path | None = None) -> Path:
    """Where `pack` writes."""
    root = Path(folder).resolve()
    return root.with_name(f"{root.name}.zip") if out is None else Path(out).resolve()


def _files(root: Path) -> list[Path]:
    """The plain files of a folder, without hidden ones."""
    found = []
    for place, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, name) for name in names if not name.startswith(".")]
    return [path for path in found if path.is_file() and not path.is_symlink()]


def _of_edit(path: Path) -> bool:
    return path.name in EDIT_FILES or path.suffix == ".safetensors"


def _parts(study: Study | None) -> set[str]:
    """What a study holds beside edits, by name."""
    if study is None:
        return set()
    named = {"scores": study.scores, "chosen heads": study.chosen, "tables": study.tables}
    return {
        f"{kind} ({name})" for kind, things in {**named, **study.results}.items() for name in things
    }


def _opened(path: Path) -> Study | None:
    try:
        return open_study(path)
    except LofitLensError:
        return None
