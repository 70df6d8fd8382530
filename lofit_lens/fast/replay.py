"""Computing what lies below the lowest edit once per data set.

Up to the outputs of the heads of the first edited layer, a frozen model computes the same in every
step. Here these are kept, row by row, and put in again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lofit_lens.attention import z_widths
from lofit_lens.fast.wrappers import listens

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


class Replay:
    """What lies below the lowest edit in force on a model.

    Make it before the context `without_wrappers`, record inside, and then put in again.

    Attributes:
        n_blocks: Blocks that nothing listens to, counted from the first.
        with_z: Whether the outputs of the heads of the block above are kept too, because its edit
            leaves alone what comes before the output projection.
    """

    def __init__(self, model: TransformerBridge) -> None:
        blocks: list[Any] = list(model.blocks)
        heard = [{m for m in block.modules() if listens(m)} for block in blocks]
        in_blocks = {module for block in blocks for module in block.modules()}
        outside = {*model.modules(), *model.original_model.modules()} - in_blocks
        self.n_blocks, self.with_z = 0, False
        if any(heard) and not any(map(listens, outside)):
            self.n_blocks = next(i for i, found in enumerate(heard) if found)
            edited = blocks[self.n_blocks]
            self.with_z = _spares_z(edited, heard[self.n_blocks])
            if heard[self.n_blocks] == {edited.hook_out}:
                self.n_blocks, self.with_z = self.n_blocks + 1, False
        self._below = [block.original_component for block in blocks[: self.n_blocks]]
        attention: Any = blocks[self.n_blocks].attn if self.with_z else None
        self._attention = attention and attention.original_component
        self._projection = attention and attention.o
        self._kept: dict[str, list[Tensor]] = {"residual": [], "z": []}
        self._now: dict[str, Tensor] = {}

    @property
    def saves(self) -> bool:
        """Whether there is anything to keep."""
        return self.n_blocks > 0 or self.with_z

    def bytes_per_token(self, model: TransformerBridge) -> int:
        """What is kept of a token."""
        cfg = model.cfg
        z = cfg.n_heads * z_widths(model)[self.n_blocks] if self.with_z else 0
        numbers = cfg.d_model * bool(self._below) + z
        return numbers * next(model.original_model.parameters()).element_size()

    @contextmanager
    def recorded(self, lengths: Sequence[int]) -> Iterator[None]:
        """Keep what the next forward pass computes.

        Args:
            lengths: Tokens of each row of its batch, padding left out.
        """

        def keep(name: str, x: object) -> None:
            if not isinstance(x, Tensor):
                raise TypeError("the blocks of this family return more than the residual stream")
            self._kept[name] += [row[:n].clone() for row, n in zip(x, lengths, strict=True)]

        with ExitStack() as stack:
            if self._below:
                hook = self._below[-1].register_forward_hook
                stack.enter_context(hook(lambda _module, _args, out: keep("residual", out)))
            if self.with_z:
                hook = self._projection.register_forward_pre_hook
                stack.enter_context(hook(lambda _module, args: keep("z", args[0])))
            yield

    @contextmanager
    def put_in(self) -> Iterator[None]:
        """Let forward passes, and their backward passes, take what `choose` has chosen."""
        kept: list[tuple[Any, Any]] = [
            (block, lambda hidden_states, *_, **__: hidden_states) for block in self._below[:-1]
        ]
        if self._below:
            kept.append((self._below[-1], lambda *_, **__: self._now["residual"]))
        if self.with_z:
            project = self._projection
            kept.append((self._attention, lambda *_, **__: (project(self._now["z"]), None)))
        with ExitStack() as stack:
            for module, forward in kept:
                stack.enter_context(patch.object(module, "forward", forward))
            yield

    def choose(self, rows: Sequence[Sequence[int]]) -> None:
        """Say what the rows of the next forward pass hold, by numbers in the order of recording."""
        for name, kept in self._kept.items():
            if kept:
                lines = [torch.cat([kept[i] for i in row]) for row in rows]
                self._now[name] = pad_sequence(lines, batch_first=True)


def _spares_z(block: Any, heard: set[nn.Module]) -> bool:
    """Whether an edited block computes the outputs of its heads as without the edit."""
    attention = getattr(block, "attn", None)
    if attention is None or getattr(attention, "o", None) is None:
        return False
    return heard <= {*attention.o.modules(), attention.hook_out, block.hook_out}
