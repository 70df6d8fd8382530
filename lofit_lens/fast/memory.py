"""Memory of the device a model runs on."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Literal, TypeVar

import psutil
import torch

from lofit_lens.errors import check_whole
from lofit_lens.progress import say

T = TypeVar("T")

BatchSize = int | Literal["auto"]
"""A number of texts, or the largest that fits into memory."""

ON_CUDA, ELSEWHERE = 256, 32
"""What "auto" starts from; on other devices larger batches gain nothing."""


def check_batch_size(batch_size: object, name: str = "batch_size") -> None:
    """Refuse a batch size that is neither a whole number of at least 1 nor "auto".

    Raises:
        LofitLensError: It is not.
    """
    if batch_size != "auto":
        check_whole(name, batch_size, 1, beside=', or "auto"')


def free_memory(device: torch.device) -> int:
    """Bytes that can still be taken."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def within_memory(run: Callable[[int], T], batch_size: BatchSize, device: torch.device) -> T:
    """Run with a batch size; under "auto" with half of it again whenever memory runs out.

    Args:
        run: Does the work with a batch size, the largest batch first, so that it fails early.
        batch_size: The size, or "auto".
        device: Where the model is.
    """
    if batch_size != "auto":
        return run(batch_size)
    return halved(run, ON_CUDA if device.type == "cuda" else ELSEWHERE)[0]


def halved(run: Callable[[int], T], size: int) -> tuple[T, int]:
    """Run with a size, and with half of it again whenever memory runs out; also the size that fits.

    What is halved is said, once in a process.
    """
    while True:
        try:
            return run(size), size
        except RuntimeError as error:
            if size == 1 or not ran_out(error):
                raise
        size //= 2
        _say_halved(size)


@cache
def _say_halved(size: int) -> None:
    say(f"Memory ran out with {2 * size} or more at once; going on with {size}.")


def ran_out(error: RuntimeError | MemoryError) -> bool:
    """Whether memory ran out; then what is no longer needed is let go."""
    from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

    out = isinstance(error, MemoryError) or should_reduce_batch_size(error)
    if out:
        clear_device_cache(garbage_collection=True)
    return out
