"""Devices that a machine without GPUs pretends to have: tensors on the CPU that say they are elsewhere.

Work on such tensors goes as on GPUs: two of different devices, or one of them and one of the CPU, cannot
be combined, but for numbers without a dimension, copies, and indices on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

FIRST, SECOND = torch.device("cpu:1"), torch.device("cpu:2")

_aten = torch.ops.aten
_COPIES = (_aten.copy_.default, _aten._to_copy.default)
_INDEXED = (_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default)


class Elsewhere(torch.Tensor):
    """A tensor that says it is on a pretended device."""

    held: Tensor

    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore

    @staticmethod
    def __new__(cls, held: Tensor, device: torch.device) -> Elsewhere:
        made: Any = torch.Tensor._make_wrapper_subclass(  # pyright: ignore
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(),
            dtype=held.dtype, device=device,
        )  # fmt: skip
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def tolist(self) -> Any:
        return self.held.tolist()

    def __repr__(self, **_: Any) -> str:
        return f"Elsewhere({self.held}, {self.device})"


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operation on the tensors inside; its results are where the arguments are, or `device` says."""
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    asked = kwargs.get("device")
    compared = [x for x in tensors if x.dim() or isinstance(x, Elsewhere)]
    if func in _INDEXED:
        indices = {id(x) for x in args[1] if x is not None and not isinstance(x, Elsewhere)}
        compared = [x for x in compared if id(x) not in indices]
    devices = {x.device for x in compared}
    if len(devices) > 1 and func not in _COPIES:
        raise RuntimeError(f"Expected all tensors to be on the same device: {func}, {devices}")
    place = next((x.device for x in tensors if isinstance(x, Elsewhere)), torch.device("cpu"))
    if asked is not None:
        place, kwargs = torch.device(asked), {**kwargs, "device": torch.device("cpu")}

    def held(x: Any) -> Any:
        return x.held if isinstance(x, Elsewhere) else x

    found = func(*tree_map(held, args), **tree_map(held, kwargs))
    if func._schema.is_mutable:
        return args[0] if isinstance(found, Tensor) else found
    if place.index is None:
        return found
    return tree_map(lambda x: Elsewhere(x, place) if isinstance(x, Tensor) else x, found)


class _Dispatched(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Made(TorchFunctionMode):
    """Two ways to make a tensor put it on a device where no dispatch mode sees it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.tensor and kwargs.get("device") is not None:
            device = torch.device(kwargs.pop("device"))
            return func(*args, **kwargs).to(device)
        if func is Tensor.new_tensor:
            return func(*args, **kwargs).to(args[0].device)
        return func(*args, **kwargs)


@contextmanager
def pretended() -> Iterator[None]:
    """Let tensors be made on and moved to the pretended devices."""
    anew = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(
        True
    )  # a module's `to` moves no data
    try:
        with _Dispatched(), _Made():
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(anew)
