"""The most bytes of tensors that are alive at once, on a CPU, without the weights."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakLive(TorchDispatchMode):
    """Counts what operations inside the context make, until it is freed.

    Args:
        known: Tensors that are there already, such as weights; views of them do not count.

    Attributes:
        bytes: The peak.
    """

    def __init__(self, known: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.bytes = 0
        self._alive: dict[int, int] = {t.untyped_storage()._cdata: 0 for t in known}
        self._now = 0

    def __torch_dispatch__(
        self, function: Any, _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return made

    def _add(self, storage: Any) -> None:
        key = storage._cdata
        if key not in self._alive:
            self._alive[key] = storage.nbytes()
            self._now += storage.nbytes()
            self.bytes = max(self.bytes, self._now)
            weakref.finalize(storage, self._remove, key)

    def _remove(self, key: int) -> None:
        self._now -= self._alive.pop(key, 0)
