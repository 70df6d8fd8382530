"""The store of an experiment: a folder, or memory, that records and products fill as they come.

Files are named by what is in them and its key, and written whole, so that several writers cannot
collide and a run cut short leaves no half file. What was made in one pass is there whole or not at all,
since its last digits depend on what was in the pass. Several processes may fill one folder: see `claims`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from lofit_lens.analysis.study.claims import Claims
from lofit_lens.analysis.study.experiment_folder import (
    CLAIMS,
    EDITS,
    KEPT,
    PASSES,
    PASSING,
    RECORDS,
    STORE_SCHEMA,
    Kind,
    check_folder,
    command_line,
    remove,
)
from lofit_lens.analysis.study.fitted import FITTED
from lofit_lens.analysis.study.keys import as_json, differences, key_of, plain
from lofit_lens.analysis.study.record import Record
from lofit_lens.analysis.study.step import Done, Step
from lofit_lens.documents import typed
from lofit_lens.edits.edit import Edit
from lofit_lens.edits.files import load_edit, save_edit
from lofit_lens.errors import LofitLensError
from lofit_lens.files import marker_in, write_json, write_whole
from lofit_lens.progress import say
from lofit_lens.training.rates import RateChoice

if TYPE_CHECKING:
    from lofit_lens.analysis.study.bench import Bench

BENCH = ("model", "dtype", "tokenizer", "shape", "without", "versions")
"""What of a bench the products of steps depend on; scores depend on its texts as well."""


class Store:
    """Records by key, and the products of steps that are worth keeping.

    Nothing in the folder is changed before the first new record or product, so that a request that
    turns out to be wrong does no harm.

    Args:
        path: The folder; None keeps everything in memory.
        kind: What it holds.
        resume: Whether to go on with an earlier one in it.
        overwrite: Whether to remove an earlier one.
        beside: Folders of other experiments, of which products are taken: what a step gave there is
            not made again.

    Attributes:
        path: The folder.
        records: What is there, by key.

    Raises:
        LofitLensError: The folder holds something else, or an experiment and neither is said; or another
            process is filling what should be overwritten.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        kind: Kind | None = None,
        *,
        resume: bool = False,
        overwrite: bool = False,
        beside: Sequence[Path] = (),
    ) -> None:
        self.path = None if path is None else Path(path)
        self.records: dict[str, Record] = {}
        self._kind = kind or Kind("experiment", "experiment.json")
        self._opened = self.path is None
        self._overwrite = overwrite
        self._beside = tuple(beside)
        self._products: dict[str, Done[Any]] = {}
        self._costs: dict[str, Done[Any]] = {}
        self._request: dict[str, Any] = {}
        self._told: dict[str, Any] = {}
        self._bench: dict[str, Any] = {}
        self._resume = resume
        self._claims: Claims | None = None
        if self.path is not None:
            self._claims = Claims(self.path / CLAIMS)
            check_folder(self.path, self._kind, overwrite=overwrite, resume=resume)
            if overwrite:
                self._claims.check_alone()
            if resume:
                self._read(self.path)

    @classmethod
    def at(cls, out: str | Path | Store | None, kind: Kind) -> Store:
        """A store as given, or of a folder, gone on with if there is one; None is memory."""
        return out if isinstance(out, Store) else cls(out, kind, resume=True)

    def ask(self, **request: Any) -> None:
        """What is asked for, as plain JSON values, for the marker."""
        self._request |= as_json(request)

    def take(self, records: Iterable[Record]) -> None:
        """Take records of an earlier experiment, and the learning rates they chose."""
        for record in records:
            self.records[record.key or key_of(record.to_json())] = record
            own = {k: record.protocol.get(k) for k in BENCH if k in record.protocol}
            for step in record.steps:
                key = key_of([own, step["key"]])
                self._costs[key] = Done(None, step["seconds"], step["tokens"])
                if step.get("rate_choice"):
                    choice = RateChoice.from_json(step["rate_choice"])
                    self._products[key] = replace(self._costs[key], product=choice)

    def check(self, protocols: Mapping[tuple[str, tuple[Any, ...]], Mapping[str, Any]]) -> None:
        """Refuse to go on where a cell was run otherwise.

        Args:
            protocols: What the scores of each cell depend on, by its key and place.

        Raises:
            LofitLensError: There is a record of the same cell with another key; the message names
                in what it differs.
        """
        places = {record.place: record for record in self.records.values()}
        for (key, place), protocol in protocols.items():
            if key in self.records or place not in places:
                continue
            record = places[place]
            odd = differences(as_json(protocol), record.protocol) if record.key else []
            raise LofitLensError(
                f"The finished run of {record.method} on {record.fold}, seed {record.seed}, was made "
                f"with other {', '.join(odd) or 'settings'}. Start anew in another folder, or give what "
                "the earlier runs had."
            )

    def add(self, record: Record, *, keep_edit: bool = False) -> Record:
        """Keep a record, with its edit if asked; returns it as it is kept."""
        kept = record if keep_edit else replace(record, edit=None)
        self.records[record.key] = kept
        if self.path is not None:
            self._open()
            if kept.edit is not None:
                try:
                    save_edit(kept.edit, self.path / EDITS / kept.name)
                except LofitLensError as error:  # an edit of the user's own class; not its record
                    say(f"The edit of {kept.method} on {kept.fold} is not kept: {error}")
            kept.save(self.path / RECORDS / f"{kept.name}.json.gz")
        return kept

    def edit_of(self, record: Record) -> Edit | None:
        """The edit of a record, from memory or from the folder, if it was kept."""
        if record.edit is None and self.path is not None:
            place = self.path / EDITS / record.name
            return load_edit(place) if place.is_dir() else None
        return record.edit

    def record(self, key: str, name: str) -> Record | None:
        """A record by its key, also one that another process wrote since; `name` is its file's."""
        if key not in self.records and self.path is not None and not self._overwrite:
            file = self.path / RECORDS / f"{name}.json.gz"
            if file.is_file() and (found := stored_record(file)) is not None:
                self.records[key] = found
        return self.records.get(key)

    def keep(self, made: Sequence[tuple[Step[Any], Done[Any]]]) -> None:
        """Keep what a pass gave, with its costs: all of it or nothing, on disk if it has a folder there."""
        made = [(step, done) for step, done in made if step.folder]
        for step, done in made:
            if step.folder != FITTED:
                self._products[self._key(step)] = done
        if self.path is None or not made:
            return
        self._open()
        whole = self.path / PASSES / uuid4().hex
        partial = whole.with_suffix(".partial")
        try:
            for step, done in made:
                file = partial / self._file(step).relative_to(self.path)
                with suppress(LofitLensError):  # an edit of the user's own class
                    done.product.save(file)
                    cost = {"seconds": done.seconds, "tokens": done.tokens}
                    write_whole(file.with_suffix(".cost"), json.dumps(cost).encode())
            if partial.is_dir():
                partial.rename(whole)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        self._unpack(whole)

    def _unpack(self, whole: Path) -> None:
        """Put what a pass gave in its place; the files by which it is known come last."""
        assert self.path is not None
        for file in sorted(whole.glob("*/*"), key=lambda file: file.suffix == ".json"):
            place = self.path / file.relative_to(whole)
            place.parent.mkdir(exist_ok=True)
            with suppress(FileNotFoundError):  # another process goes on with the folder
                if file.is_dir():
                    shutil.rmtree(place, ignore_errors=True)
                file.replace(place)
        shutil.rmtree(whole, ignore_errors=True)

    def claiming(self) -> AbstractContextManager[None]:
        """Share the work with other processes that fill the folder."""
        return nullcontext() if self._claims is None else self._claims.held()

    def claim(self, work: str) -> bool:
        """Claim a piece of work; False: another process has it."""
        return self._claims is None or self._claims.take(self._claimed(work))

    def drop(self, work: str) -> None:
        """Give a claim back."""
        if self._claims is not None:
            self._claims.drop(self._claimed(work))

    def _claimed(self, work: str) -> str:
        return key_of([self._bench, work])[:24]

    def product(self, step: Step[Any]) -> Done[Any] | None:
        """What a step gave, if it is there."""
        key = self._key(step)
        if key in self._products or not step.folder or self.path is None or self._overwrite:
            return self._products.get(key)
        file = self._found(step)
        if file is None:
            return None
        try:
            found = Done(KEPT[step.folder](file), **_cost(file.with_suffix(".cost")))
        except LofitLensError:
            if step.folder != FITTED:
                raise
            return None  # nobody has seen it yet: it is fitted again
        if step.folder != FITTED:
            self._products[key] = found
        return found

    def spent(self, step: Step[Any]) -> Done[Any]:
        """What a step cost that was done earlier, if it is known; what it gave may be gone."""
        return self.product(step) or self._costs.get(self._key(step), Done(None))

    def give(self, bench: Bench, step: Step[Any], product: Any) -> None:
        """Put a product where a run on a bench will find it."""
        self.on(bench)
        self._products[self._key(step)] = Done(product)

    def on(self, bench: Bench) -> None:
        """Say on which bench steps are done; products of another are not taken."""
        self._bench = {k: bench.identity[k] for k in BENCH if k in bench.identity}

    def _key(self, step: Step[Any]) -> str:
        return key_of([self._bench, step.key])

    def finish(self, records: Sequence[Record], **content: Any) -> None:
        """Write which records make up the result, in their order, and what else is to be told."""
        self.tell(runs=[record.name for record in records], **content)
        if self.path is not None:
            for part in PASSING:
                shutil.rmtree(self.path / part, ignore_errors=True)

    def tell(self, **content: Any) -> None:
        """Add to what the marker tells of a result."""
        if self.path is not None:
            self._open()
            self._told |= as_json(content)
            self._mark()

    def write(self, texts: Mapping[str, str]) -> list[Path]:
        """Write files for people; returns them."""
        assert self.path is not None
        self._open()
        for name, text in texts.items():
            write_whole(self.path / name, text.encode())
        return [self.path / name for name in texts]

    @property
    def marker(self) -> Path:
        """The file by which the folder is known."""
        assert self.path is not None
        return self.path / self._kind.marker

    def _file(self, step: Step[Any], folder: Path | None = None) -> Path:
        assert self.path is not None
        name = f"{plain(step.name)}-{self._key(step)[:12]}.json"
        return (folder or self.path) / step.folder / name

    def _found(self, step: Step[Any]) -> Path | None:
        """The file of what a step gave; one that is in a folder beside is copied."""
        file = self._file(step)
        if not file.is_file() and step.folder != FITTED:
            places = (self._file(step, folder) for folder in self._beside)
            there = next((place for place in places if place.is_file()), None)
            if there is not None:
                self._open()
                for one in (there.with_suffix(".cost"), there):
                    if one.is_file():
                        write_whole(file.with_suffix(one.suffix), one.read_bytes())
        return file if file.is_file() else None

    def _open(self) -> None:
        if not self._opened and self.path is not None and self._claims is not None:
            if self._overwrite:
                self._claims.check_alone()
                remove(self.path, self._kind)
                self._overwrite = False
            elif not self._resume and self.marker.is_file():
                raise LofitLensError(
                    f"Another process has begun a {self._kind.name} in {self.path} meanwhile. Give "
                    "--resume to share its work, or name another folder."
                )
            self._mark()
            self._opened = True

    def _mark(self) -> None:
        told = {"schema": STORE_SCHEMA, "kind": self._kind.name, "command_line": command_line()}
        write_json(self.marker, told | self._request | self._told)

    def _read(self, path: Path) -> None:
        marker = marker_in(path, self._kind.marker)
        if marker is not None and marker.get("schema") != STORE_SCHEMA:
            raise LofitLensError(
                f"The {self._kind.name} in {path} was made by an earlier version, or saved from Python "
                "by one. It can be read, but not gone on with: name another folder."
            )
        for whole in (path / PASSES).glob("*"):
            if not whole.suffix:
                self._unpack(whole)
        files = sorted((path / RECORDS).glob("*.json.gz"))
        self.take(record for record in map(stored_record, files) if record is not None)


@dataclass(frozen=True)
class _Cost:
    seconds: float = 0.0
    tokens: int = 0


def _cost(file: Path) -> dict[str, Any]:
    """What a step cost, from the file beside its product; nothing if that is damaged."""
    with suppress(LofitLensError):
        return {**vars(typed(marker_in(file.parent, file.name) or {}, _Cost))}
    return {}


def stored_record(file: Path) -> Record | None:
    """A record in a store; None of a file that bears the name of another one.

    Raises:
        LofitLensError: It is damaged; the message says what to do.
    """
    try:
        record = Record.load(file)
    except LofitLensError as error:
        raise LofitLensError(f"{error} Remove it, and --resume runs its cell again.") from error
    if not record.key:  # made by hand
        return replace(record, key=key_of(record.to_json()))
    return record if file.name == f"{record.name}.json.gz" else None
