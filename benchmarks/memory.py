"""Memory of one run: what is kept for backward, and the peak."""

from __future__ import annotations

import ctypes
import gc
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

Run = Callable[[], object]

_STATUS, _REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class _Meter:
    """Bytes of the storages that autograd holds, each counted once, and their largest sum."""

    def __init__(self, ignored: set[int]) -> None:
        self._ignored = ignored
        self._held: Counter[int] = Counter()
        self._sum = 0
        self.most = 0

    def take(self, storage: int, size: int) -> None:
        if storage not in self._ignored and not self._held[storage]:
            self._sum += size
            self.most = max(self.most, self._sum)
        self._held[storage] += 1

    def drop(self, storage: int, size: int) -> None:
        self._held[storage] -= 1
        if storage not in self._ignored and not self._held[storage]:
            self._sum -= size


class _Held:
    """A tensor that autograd holds."""

    def __init__(self, tensor: Tensor, meter: _Meter) -> None:
        storage = tensor.untyped_storage()
        self.tensor, self._meter = tensor, meter
        self._key = storage.data_ptr(), storage.nbytes()
        meter.take(*self._key)

    def __del__(self) -> None:
        self._meter.drop(*self._key)


def saved_for_backward(run: Run) -> int:
    """Most bytes that a run keeps for its backward pass at any time.

    Storages count once, however many operations keep them. Weights do not count, nor does anything
    else that a `torch.nn.Module` holds as parameter or buffer.
    """
    gc.collect()
    modules = [item for item in gc.get_objects() if issubclass(type(item), torch.nn.Module)]
    weights = {
        tensor.untyped_storage().data_ptr()
        for module in modules
        for tensor in (*module._parameters.values(), *module._buffers.values())
        if tensor is not None
    }
    meter = _Meter(weights)
    with saved_tensors_hooks(lambda tensor: _Held(tensor, meter), lambda held: held.tensor):
        run()
    return meter.most


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Callable[[], int | None]]:
    """Measure the most bytes in use inside the context beyond those before it.

    Yields:
        A function that says how many so far; None where the system cannot tell.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        allocated = torch.cuda.memory_allocated()
        yield lambda: torch.cuda.max_memory_allocated() - allocated
        return
    try:
        ctypes.CDLL(None).malloc_trim(0)  # freed memory would hide what is taken anew
        _REFERENCES.write_text("5")  # Linux: forget the peak so far
        resident = _resident("VmRSS")
    except (AttributeError, OSError, TypeError):
        yield lambda: None
        return
    yield lambda: max(0, _resident("VmHWM") - resident)


def _resident(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", _STATUS.read_text())
    assert found is not None
    return 1024 * int(found[1])
