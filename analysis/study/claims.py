"""Claims: which of several processes that fill one folder does which work.

A claim is a file that only one process can create. Who holds it touches it now and then; it is taken
over when its process is gone, or when it has not been touched for a while by the clock of whoever waits,
so that clocks need not agree.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Event, Thread
from uuid import uuid4

import psutil

from lofit_lens.documents import typed
from lofit_lens.errors import LofitLensError
from lofit_lens.files import marker_in

BEAT, SILENT = 5.0, 60.0
"""Seconds between touches, and after how many without one a process of another host counts as gone."""

HOLDER = "run-"


@dataclass
class Claims:
    """The claims of this process in a folder.

    Attributes:
        folder: Where the files are.
    """

    folder: Path
    _held: set[str] = field(default_factory=set)
    _seen: dict[Path, tuple[int, float]] = field(default_factory=dict)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Be known as one that fills the folder; all that is claimed inside is given back.

        Raises:
            LofitLensError: The folder cannot be written to.
        """
        there = self.folder.parent.is_dir()
        try:
            self.take(HOLDER + uuid4().hex)
        except OSError as error:
            raise LofitLensError(
                f"{self.folder.parent} cannot be written to: {error}. Name another folder with --out."
            ) from error
        stop = Event()
        beating = Thread(target=self._beat, args=[stop], daemon=True)
        beating.start()
        try:
            yield
        finally:
            stop.set()
            beating.join()
            for name in list(self._held):
                self.drop(name)
            for file in self.folder.glob("*.json"):
                if self._is_left(file):
                    file.unlink(missing_ok=True)
            with suppress(OSError):  # others are in it, or it holds what was made
                self.folder.rmdir()
                if not there:
                    self.folder.parent.rmdir()

    def take(self, name: str) -> bool:
        """Claim a piece of work; False: another process has it."""
        file = self._file(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        own = os.getpid()
        holder = _Holder(socket.gethostname(), own, _identity(own))
        for _ in range(2):
            try:
                file.touch(exist_ok=False)
            except FileExistsError:
                if not self._is_left(file):
                    return False
                left = file.with_suffix(f".{uuid4().hex}")
                with suppress(FileNotFoundError):  # another one was faster
                    file.rename(left)
                    left.unlink()
            else:
                self._held.add(name)
                try:
                    file.write_text(json.dumps(asdict(holder)), encoding="utf-8")
                except OSError:
                    self.drop(name)
                    raise
                return True
        return False

    def drop(self, name: str) -> None:
        """Give a claim back."""
        self._held.discard(name)
        self._file(name).unlink(missing_ok=True)

    def check_alone(self) -> None:
        """Refuse a folder that another process is filling.

        Raises:
            LofitLensError: One is; the message names it.
        """
        own = {self._file(name) for name in self._held}
        for file in self.folder.glob(f"{HOLDER}*.json"):
            if file not in own and not self._is_left(file):
                holder = _holder(file)
                raise LofitLensError(
                    f"{self.folder.parent} is being filled by process {holder.process} on "
                    f"{holder.host}. Wait for it or stop it, share its work with --resume, or "
                    "name another folder."
                )

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _is_left(self, file: Path) -> bool:
        """Whether the process that made a claim is gone."""
        holder = _holder(file)
        if holder.host == socket.gethostname():
            try:
                return _identity(holder.process) != holder.identity
            except (psutil.NoSuchProcess, ValueError):
                return True
        try:
            touched = file.stat().st_mtime_ns
        except FileNotFoundError:
            return False  # given back just now
        before, since = self._seen.get(file, (None, 0.0))
        if before != touched:
            self._seen[file] = touched, time.monotonic()
            return False
        return time.monotonic() - since > SILENT

    def _beat(self, stop: Event) -> None:
        while not stop.wait(BEAT):
            for name in list(self._held):
                with suppress(OSError):  # the next one may succeed
                    os.utime(self._file(name))


@dataclass(frozen=True)
class _Holder:
    """Who made a claim."""

    host: str = ""
    process: int = 0
    identity: int = 0


def _holder(file: Path) -> _Holder:
    """Who made a claim; nobody if that is not written yet, or the file is foreign."""
    with suppress(LofitLensError):
        return typed(marker_in(file.parent, file.name) or {}, _Holder)
    return _Holder()


def _identity(process: int) -> int:
    """What tells a process from a later one of the same number, whatever becomes of the clock."""
    return hash(psutil.Process(process))
