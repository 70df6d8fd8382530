"""Reading finished runs back, whatever a folder holds of them."""

from __future__ import annotations

from pathlib import Path

from lofit_lens.analysis.study.kinds import KINDS
from lofit_lens.analysis.study.results import Study, joined
from lofit_lens.errors import LofitLensError


def open_study(folder: str | Path) -> Study:
    """Read the finished runs of a folder, without the model.

    Args:
        folder: The `--out` of `compare`, `demo`, `transfer`, `lofit`, `select` or `tune`, what
            `LofitRun.save` or `Sweep.save` wrote, `HeadCards` saved as cards.json, `CausalCurves`
            saved as causal*.json.gz; or a folder whose sub-folders are such.

    Raises:
        LofitLensError: There is no run in the folder, or one is unfinished or damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise LofitLensError(f"There is no folder {folder}.")
    found = _parts(folder)
    if not found:
        places = sorted(path for path in folder.iterdir() if path.is_dir())
        found = [part for place in places for part in _parts(place)]
    if not found:
        known = "; ".join(f"{', '.join(kind.files)} ({kind.what})" for kind in KINDS)
        raise LofitLensError(
            f"Neither {folder} nor a folder in it holds a finished run. Looked for: {known}."
        )
    return joined(folder, found)


def _parts(folder: Path) -> list[Study]:
    """What a folder itself holds, by kind."""
    try:
        return [kind.read(folder) for kind in KINDS if kind.is_in(folder)]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OSError) as error:
        raise LofitLensError(f"The run in {folder} is damaged: {error!r}.") from error
