"""Jobs on the embedded model, in this process or shared out among worker processes."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import active_children, get_context
from threading import RLock
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

from lofit_lens.errors import LofitLensError, TrainingStopped

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

T = TypeVar("T")
Job = Callable[["TransformerBridge"], Iterable[T]]
"""What gives results on the model one by one. For workers it must be picklable."""


@runtime_checkable
class RunJobs(Protocol):
    """What `job_runner` gives."""

    def __call__(self, jobs: Sequence[Job[T]], /) -> Iterator[tuple[int, T]]:
        """Run jobs; yields the place of each among the jobs with each of its results."""
        ...


MOST = 2
"""Workers by default; each holds a model and libraries of its own, about a gigabyte."""


def usable_workers() -> int:
    """How many workers are of use here: one for each CPU this process may use, at most two."""
    if hasattr(os, "sched_getaffinity"):
        return min(MOST, len(os.sched_getaffinity(0)))
    return min(MOST, os.cpu_count() or 1)


@contextmanager
def job_runner(model: TransformerBridge, workers: int) -> Iterator[RunJobs]:
    """What runs jobs in this process or in others.

    Results of one job come in its order. With several workers those of different jobs come as they
    get finished, each job on the embedded model loaded anew with one thread. An error, also one
    met by who uses the results, ends the workers at once.

    Args:
        model: The embedded model, for jobs in this process.
        workers: Number of processes; 1 runs everything in this one.

    Raises:
        TrainingStopped: A job met it; the results before it have been yielded.
        LofitLensError: A worker process ended before its work was done.
    """
    if workers == 1:
        yield partial(_run_here, model)
        return
    before = set(active_children())
    context = get_context("spawn")  # a fork of a process with threads of PyTorch may hang
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start)
    try:
        yield partial(_run_in, pool)
    except BaseException as error:
        for process in set(active_children()) - before:
            process.terminate()
        if isinstance(error, BrokenProcessPool):
            raise LofitLensError(
                "A worker process ended before its work was done. What it said is above; if nothing, "
                f"it was most likely killed for lack of memory: each of {workers} needs about 1 GB. "
                "Free some, or use one worker (the command uses one if it may use one CPU only)."
            ) from error
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _run_here(model: TransformerBridge, jobs: Sequence[Job[T]]) -> Iterator[tuple[int, T]]:
    for place, job in enumerate(jobs):
        for result in job(model):
            yield place, result


def _run_in(pool: ProcessPoolExecutor, jobs: Sequence[Job[T]]) -> Iterator[tuple[int, T]]:
    places = {pool.submit(_work, pickle.dumps(job)): place for place, job in enumerate(jobs)}
    for future in as_completed(places):
        results, stopped = pickle.loads(future.result())
        for result in results:
            yield places[future], result
        if stopped is not None:
            raise TrainingStopped(*stopped)


_model: TransformerBridge
"""The model of this worker process."""


def _start() -> None:
    """Make a process ready for jobs."""
    global _model
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told too, and ends its workers
    sys.stdout = sys.stderr  # standard output is for what the command prints

    import torch
    from tqdm import tqdm
    from transformers.utils.logging import disable_progress_bar

    from lofit_lens.identity import EMBEDDED
    from lofit_lens.model import load_model

    tqdm.set_lock(
        RLock()
    )  # its own is a semaphore of the system, left behind by a terminated process
    disable_progress_bar()
    torch.set_num_threads(1)
    _model = load_model(EMBEDDED, device="cpu", dtype="float32")


def _work(job: bytes) -> bytes:
    """The results of a job, and what `TrainingStopped` takes if it was raised.

    Bytes, because tensors that go between processes as they are do so by handles to shared memory,
    which needs sockets and is gone when the worker has ended.
    """
    results = []
    try:
        for result in pickle.loads(job)(_model):
            results.append(result)
    except TrainingStopped as error:
        return pickle.dumps((results, (str(error), error.learned)))
    return pickle.dumps((results, None))
