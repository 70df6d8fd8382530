"""The oracle of edits of the residual stream: forward hooks on the blocks of a plain model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor


def plain_blocks(model: Any) -> list[Any]:
    """The decoder layers of a plain Hugging Face model."""
    endings = ("model.layers", "transformer.h", "gpt_neox.layers")
    (found,) = [module for name, module in model.named_modules() if name in endings]
    return list(found)


@contextmanager
def hooked_blocks(model: Any, changes: Mapping[int, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Put what leaves some blocks through functions."""

    def hook(change: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
        def run(module: Any, args: Any, output: Any) -> Any:
            if isinstance(output, tuple):
                return (change(output[0]), *output[1:])
            return change(output)

        return run

    blocks = plain_blocks(model)
    handles = [blocks[i].register_forward_hook(hook(change)) for i, change in changes.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
