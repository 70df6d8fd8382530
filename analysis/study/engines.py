"""Engines: where steps are done, in this process or by any `concurrent.futures.Executor`."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from multiprocessing import active_children, get_context
from threading import Lock, RLock
from typing import Any, Protocol, runtime_checkable

from lofit_lens.analysis.study.bench import Bench, loaded_as
from lofit_lens.analysis.study.step import Given, Outcome, Step, perform
from lofit_lens.errors import LofitLensError
from lofit_lens.progress import say

MOST = 2
"""Workers by default; each holds a model and libraries of its own, about a gigabyte and the model."""

RETRIES = 2
"""How often a job is tried again whose worker process was lost."""


@runtime_checkable
class Engine(Protocol):
    """What does steps.

    Attributes:
        width: How many jobs it takes at once.
    """

    width: int

    def submit(self, bench: Bench, steps: Sequence[Step[Any]], given: Given) -> Future[Outcome]:
        """Do steps that are alike."""
        ...


class InProcess:
    """Steps one after the other, in this process."""

    width = 1

    def submit(self, bench: Bench, steps: Sequence[Step[Any]], given: Given) -> Future[Outcome]:
        """Do them now."""
        future: Future[Outcome] = Future()
        future.set_result(perform(bench, steps, given))
        return future


@dataclass
class ByExecutor:
    """Steps by an executor, whose workers load the model by its name or folder, once each.

    Args:
        executor: Any; of threads in this process the model would be used by several at once.
        width: How many jobs it is given at once.

    Raises:
        LofitLensError: On the first step: the model was built in memory, or is spread over devices.
    """

    executor: Executor
    width: int = 64
    _source: bytes | None = field(default=None, init=False)

    def submit(self, bench: Bench, steps: Sequence[Step[Any]], given: Given) -> Future[Outcome]:
        """Send them off, as bytes; a function that cannot be imported elsewhere is called here.

        Tensors that go between processes as they are do so by handles to shared memory, which needs
        sockets and is gone when the worker has ended.
        """
        if self._source is None:
            self._source = _source(bench)
        try:
            job = pickle.dumps((self._source, steps, given))
        except (pickle.PicklingError, AttributeError, TypeError):
            return InProcess().submit(bench, steps, given)
        future: Future[Outcome] = Future()

        def finish(sent: Future[bytes]) -> None:
            try:
                future.set_result(pickle.loads(sent.result()))
            except BaseException as error:
                future.set_exception(error)

        self.executor.submit(_work, job).add_done_callback(finish)
        return future


def _source(bench: Bench) -> bytes:
    """What a worker makes its bench of."""
    import torch

    if len(set((getattr(bench.model.original_model, "hf_device_map", None) or {}).values())) > 1:
        raise LofitLensError(
            "This model is spread over several devices, and a worker would load it onto one. Run it "
            "without workers."
        )
    loaded = loaded_as(bench.model)
    options = {name: loaded[name] for name in ("revision", "dtype", "quantization")}
    options["device"] = torch.device(bench.model.cfg.device or "cpu").type  # a worker's own GPU
    own = {"n_answers": bench.n_answers, "batch_size": bench.batch_size}
    return pickle.dumps(
        (loaded["model"], options, tuple(bench.texts), own, bench.identity["model"])
    )


@lru_cache(maxsize=1)
def _bench(source: bytes) -> Bench:
    """The bench of this worker process."""
    import torch
    from transformers.utils.logging import disable_progress_bar

    from lofit_lens.model import load_model

    disable_progress_bar()
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    name, options, texts, own, weights = pickle.loads(source)
    bench = Bench(load_model(name, **options), texts, **own)
    if bench.identity["model"] != weights:
        raise LofitLensError(
            f"{name} has other weights where a worker loads it than here. Save the model as it is in a "
            "folder, and load that."
        )
    return bench


def _work(job: bytes) -> bytes:
    """Do the steps of a job."""
    source, steps, given = pickle.loads(job)
    return pickle.dumps(perform(_bench(source), steps, given))


def usable_workers() -> int:
    """How many workers are of use here: one for each CPU this process may use, at most two."""
    if hasattr(os, "sched_getaffinity"):
        return min(MOST, len(os.sched_getaffinity(0)))
    return min(MOST, os.cpu_count() or 1)


@contextmanager
def engine_of(executor: Executor | int) -> Iterator[Engine]:
    """The engine for an executor, for a number of worker processes, or for this process.

    An error, also one met by who uses the results, ends worker processes at once.

    Args:
        executor: An executor, or a number of processes, of which 1 runs everything in this one.

    Raises:
        LofitLensError: Worker processes ended again and again before their work was done; the
            number is below 1.
    """
    if isinstance(executor, int) and executor < 1:
        raise LofitLensError(f"workers must be 1 or more, got {executor}.")
    if executor == 1:
        yield InProcess()
    elif isinstance(executor, Executor):
        yield ByExecutor(executor)
    else:
        with _processes(executor) as pool:
            yield ByExecutor(pool, width=2 * executor)


class Renewed(Executor):
    """A pool of processes that is made anew when one of them is lost; its jobs are tried again.

    Args:
        make: Makes the pool.
    """

    def __init__(self, make: Callable[[], Executor]) -> None:
        self._make, self._lock = make, Lock()
        self._pool = make()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have a function called in a process."""
        future: Future[Any] = Future()
        self._try(future, RETRIES, fn, args, kwargs)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes."""
        self._pool.shutdown(wait, cancel_futures=cancel_futures)

    def _try(
        self, future: Future[Any], left: int, fn: Callable[..., Any], args: Any, kwargs: Any
    ) -> None:
        pool = self._pool

        def finish(sent: Future[Any]) -> None:
            if sent.cancelled():
                future.cancel()
                return
            error = sent.exception()
            if isinstance(error, BrokenProcessPool) and left:
                self._renew(pool)
                self._try(future, left - 1, fn, args, kwargs)
            elif error is not None:
                future.set_exception(error)
            else:
                future.set_result(sent.result())

        try:
            pool.submit(fn, *args, **kwargs).add_done_callback(finish)
        except BrokenProcessPool:  # it was lost just now
            self._renew(pool)
            self._try(future, left, fn, args, kwargs)

    def _renew(self, pool: Executor) -> None:
        with self._lock:
            if self._pool is pool:
                say("A worker process was lost; its work is done again by another.")
                self._pool = self._make()
                pool.shutdown(wait=False)


@contextmanager
def _processes(workers: int) -> Iterator[Executor]:
    import torch

    before = set(active_children())
    context = get_context("spawn")  # a fork of a process with threads of PyTorch may hang
    turn = context.Value("i", 0)
    n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    pool = Renewed(
        lambda: ProcessPoolExecutor(
            workers, mp_context=context, initializer=_start, initargs=(turn, n_devices)
        )
    )
    try:
        yield pool
    except BaseException as error:
        for process in set(active_children()) - before:
            process.terminate()
        if isinstance(error, BrokenProcessPool):
            raise LofitLensError(
                "A worker process ended before its work was done. What it said is above; if nothing, "
                f"it was most likely killed for lack of memory: each of {workers} needs about 1 GB and "
                "the model. Free some, or use one worker."
            ) from error
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def take_own_gpu(turn: Any, n_devices: int) -> None:
    """Of several GPUs have this process see the next alone; before it uses any.

    Args:
        turn: A number that processes share: how many have taken one.
        n_devices: How many the parent sees.
    """
    if n_devices > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(n_devices)))
        with turn.get_lock():
            os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[turn.value % n_devices]
            turn.value += 1


def _start(turn: Any, n_devices: int) -> None:
    """Make a process ready for jobs."""
    take_own_gpu(turn, n_devices)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told too, and ends its workers
    sys.stdout = sys.stderr  # standard output is for what the command prints

    from tqdm import tqdm

    # its own is a semaphore of the system, left behind by a terminated process
    tqdm.set_lock(RLock())
