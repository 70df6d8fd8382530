"""Reading finished runs back, whatever a folder holds of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lofit_lens.analysis.kinds.table import KINDS
from lofit_lens.analysis.reading.packed import unpacked
from lofit_lens.analysis.reading.row import Marker, Row
from lofit_lens.analysis.reading.study import Study, joined
from lofit_lens.analysis.study.experiment_folder import RECORDS, read_marker
from lofit_lens.errors import LofitLensError


class UnfinishedError(LofitLensError):
    """A run was stopped before its end."""


def open_study(folder: str | Path) -> Study:
    """Read the finished runs of a folder, or of a zip that `pack` wrote, without the model.

    Args:
        folder: The `--out` of `compare`, `demo`, `transfer`, `lofit`, `select` or `tune`, what
            `LofitRun.save`, `Comparison.save`, `TransferMatrix.save` or `Sweep.save` wrote,
            `HeadCards` saved as cards.json, `HeadScores` as scores.json, `CausalCurves` as
            causal*.json.gz, `LayerDistribution` as layers*.json; or a folder whose sub-folders are
            such; or one of these packed.

    Raises:
        LofitLensError: There is no run in the folder, one is damaged, or none is finished.
            Among several runs an unfinished one is left out and named in `Study.left_out`.
    """
    folder = Path(folder)
    if folder.is_file():
        with unpacked(folder) as inside:
            return replace(open_study(inside), path=folder)
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
        known = "; ".join(f"{', '.join(row.markers)} ({row.what})" for row in KINDS)
        raise LofitLensError(
            f"Neither {folder} nor a folder in it holds a finished run. Looked for: {known}."
        )
    return replace(joined(folder, found), left_out=left_out)


def _parts(folder: Path) -> list[Study]:
    """What a folder itself holds, by kind."""
    rows = [row for row in KINDS if row.is_in(folder)]
    markers = [row.kind.marker for row in KINDS if row.kind is not None]
    if rows and (folder / RECORDS).is_dir() and not any((folder / m).exists() for m in markers):
        raise UnfinishedError(
            f"{folder} holds {RECORDS} of an experiment, but no {', no '.join(markers)}. Run it again "
            "in a new folder."
        )
    return [_read(row, folder) for row in rows]


def _read(row: Row, folder: Path) -> Study:
    try:
        marker: Marker = {}
        if row.kind is not None and (folder / row.kind.marker).is_file():
            marker = read_marker(folder, row.kind)
            if not row.has_results(folder, marker):
                raise UnfinishedError(
                    f"The {row.kind.name} in {folder} did not finish. Run it again with --resume, or "
                    "with --overwrite if an earlier version made it."
                )
        return row.read(folder, marker)
    except LofitLensError as error:
        if str(folder) in str(error):
            raise
        raise LofitLensError(f"The run in {folder} is damaged: {error}") from error
    except FileNotFoundError as error:
        raise LofitLensError(
            f"The run in {folder} lacks {error.filename}: it was made by an earlier version, or files "
            f"were removed. Run {row.what} again with --overwrite."
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OSError) as error:
        raise LofitLensError(f"The run in {folder} is damaged: {error!r}.") from error
