"""The folder of a run on disk: one fold, or one sub-folder a fold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from lofit_lens.analysis.kinds.lofit import KIND as LOFIT
from lofit_lens.analysis.study.bench import loaded_as
from lofit_lens.analysis.study.experiment_folder import check_folder, command_line, remove
from lofit_lens.documents import typed
from lofit_lens.edits.files import DESCRIPTION
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import LofitLensError
from lofit_lens.files import read_as, write_json
from lofit_lens.head_scores import HeadScores
from lofit_lens.heads import HeadSet, number_of_heads
from lofit_lens.provenance import library_versions

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

RUN_SCHEMA = 1
RUN_FILE = "run.json"
CARDS = "cards.json"
"""What the report shows of each head."""


class Told(TypedDict):
    """What `run.json` tells, as far as it is read."""

    command: str
    command_line: NotRequired[str | None]
    loaded: NotRequired[dict[str, str | None] | None]
    versions: NotRequired[dict[str, str]]


def read_run(folder: Path) -> Told:
    """What `run.json` in a folder tells.

    Raises:
        LofitLensError: It is missing or damaged.
    """
    return read_as(folder / RUN_FILE, lambda told: typed(told, Told), schema=RUN_SCHEMA, what="run")


@dataclass(frozen=True)
class RunFolder:
    """A folder with `run.json` and the results of one or more folds."""

    path: Path

    @classmethod
    def new(cls, path: Path, *, overwrite: bool, resume: bool | None = None) -> RunFolder:
        """A folder to write to; refused, before any work is done, if it holds results.

        `resume` is None for a command that cannot go on with a run.

        Raises:
            LofitLensError: The folder holds results, or a run that did not finish, and neither
                `overwrite` nor `resume` is on, both are, or it is a file.
        """
        folder = cls(path)
        earlier = [*folder.files(), *(str(place / LOFIT.marker) for place in folder._begun())]
        if earlier and not (overwrite or resume):
            go_on = "" if resume is None else "--resume to go on with them, or "
            raise LofitLensError(
                f"{path} holds the results of a run, such as {earlier[0]}. Name another folder, or give "
                f"{go_on}--overwrite to remove them."
            )
        for place in (path, *path.glob("fold-*")):
            check_folder(place, LOFIT, overwrite=overwrite, resume=bool(resume))
        return folder

    def clear(self) -> None:
        """Remove the results of an earlier run, and nothing else; call when all is ready to run."""
        for file in self.files():
            Path(file).unlink()
        for place in self._begun():
            remove(place, LOFIT)

    def places(self, n: int) -> list[Path]:
        """The folder of each of `n` folds."""
        return [self.path] if n == 1 else [self.path / f"fold-{i}" for i in range(n)]

    def folds(self) -> list[Path]:
        """The folders that hold results: this one, or one for each fold.

        Raises:
            LofitLensError: There is none.
        """
        if not self._own_files():
            raise LofitLensError(
                f"There are no results in {self.path}. Give the --out folder of `lofit`, `select` or "
                "`tune`."
            )
        return sorted(path for path in self.path.glob("fold-*") if path.is_dir()) or [self.path]

    def finish(self, command: str, model: TransformerBridge, **content: Any) -> None:
        """Write `run.json`, which marks the run as finished."""
        record = {"schema": RUN_SCHEMA, "command": command, "command_line": command_line()}
        record |= {"loaded": loaded_as(model), **content, "versions": library_versions()}
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / RUN_FILE, record)

    def loaded(self) -> dict[str, str | None]:
        """Model, revision, dtype and quantization of the run, from `run.json` here or, for a fold, above."""
        for folder in (self.path, self.path.parent):
            if (folder / RUN_FILE).is_file():
                return read_run(folder).get("loaded") or {}
        return {}

    def files(self) -> list[str]:
        """Every file of the run."""
        return [str(path) for path in [self.path / RUN_FILE, *self._own_files()] if path.is_file()]

    def _begun(self) -> list[Path]:
        """The folders of folds on which both stages were begun."""
        places = [self.path, *self.path.glob("fold-*")]
        return [place for place in places if (place / LOFIT.marker).is_file()]

    def _own_files(self) -> list[Path]:
        places = [self.path, *self.path.glob("fold-*")]
        places += [place / "stopped" for place in places]
        return sorted(
            p for place in places for name in (*LOFIT.products, CARDS) for p in place.glob(name)
        )


def read_heads(
    source: Path,
    *,
    n_layers: int | None = None,
    n_heads: int | None = None,
    without: tuple[int, ...] = (),
    k: int | None = None,
    fraction: float | None = None,
) -> HeadSet:
    """Heads of a run folder, a scores file or a head list, here or on the hub, cut to a number if given."""
    cut = k is not None or fraction is not None
    scored = source / "scores.json" if source.is_dir() else source
    if source.is_dir() and (source / DESCRIPTION).is_file() and not cut:
        return HeadIntervention.load(source).heads
    if scored.name == "scores.json":
        scores = HeadScores.load(scored)
        if cut:
            return scores.top(k=k, fraction=fraction)
        if not (source / "heads.npy").is_file():
            raise LofitLensError(
                f"{scored} scores every head; say how many with --k or --fraction."
            )
        return HeadSet.load(source / "heads.npy", **scores.grid.shape)
    found = HeadSet.load(str(source), n_layers=n_layers, n_heads=n_heads, without=without)
    if cut:
        found = found.first(number_of_heads(found.grid.total, k=k, fraction=fraction))
    return found
