"""Reading finished runs back, whatever a folder holds of them."""

from __future__ import annotations

from pathlib import Path

from lofit_lens.analysis.study.kinds import KINDS, RunKind, UnfinishedError
from lofit_lens.analysis.study.results import Study, joined
from lofit_lens.errors import LofitLensError


def open_study(folder: str | Path) -> Study:
    """Read the finished runs of a folder, without the model.

    Args:
        folder: The `--out` of `compare`, `demo`, `transfer`, `lofit`, `select` or `tune`, what
            `LofitRun.save`, `Comparison.save`, `TransferMatrix.save` or `Sweep.save` wrote,
            `HeadCards` saved as cards.json, `HeadScores` as scores.json, `CausalCurves` as
            causal*.json.gz, `LayerDistribution` as layers*.json; or a folder whose sub-folders are such.

    Raises:
        LofitLensError: There is no run in the folder, one is damaged, or none is finished.
            Among several runs an unfinished one is left out and named in `Study.left_out`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise LofitLensError(f"There is no folder {folder}.")
    found, left_out = _parts(folder), {}
    if not found:
        for place in sorted(path for path in folder.iterdir() if path.is_dir()):
            try:
                found += _parts(place)
            except UnfinishedError as error:
                left_out[place.name] = str(error)
    if not found and left_out:
        raise LofitLensError("\n".join(left_out.values()))
    if not found:
        known = "; ".join(f"{', '.join(kind.files)} ({kind.what})" for kind in KINDS)
        raise LofitLensError(
            f"Neither {folder} nor a folder in it holds a finished run. Looked for: {known}."
        )
    return joined(folder, found, left_out=left_out)


def _parts(folder: Path) -> list[Study]:
    """What a folder itself holds, by kind."""
    return [_read(kind, folder) for kind in KINDS if kind.is_in(folder)]


def _read(kind: RunKind, folder: Path) -> Study:
    try:
        return kind.read(folder)
    except FileNotFoundError as error:
        raise LofitLensError(
            f"The run in {folder} lacks {error.filename}: it was made by an earlier version, or files "
            f"were removed. Run {kind.what} again with --overwrite."
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OSError) as error:
        raise LofitLensError(f"The run in {folder} is damaged: {error!r}.") from error
