"""Edits that are functions of activations at hook points, at some positions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from lofit_lens.edits.base import BaseEdit
from lofit_lens.errors import LofitLensError
from lofit_lens.positions import PositionTracker, check_scope, tracked_positions
from lofit_lens.provenance import Provenance, unmeasured

if TYPE_CHECKING:
    from typing import Self

    from transformer_lens.model_bridge import TransformerBridge

HookFunction = Callable[..., Tensor]
Change = Callable[[Tensor], Tensor]
"""From an activation `[batch, pos, ...]` in float32 to what takes its place."""

T = TypeVar("T")


class HookedEdit(BaseEdit):
    """An edit that says by `changes` what it does at each hook point.

    It is computed in float32 and cast to the model's type.
    """

    def changes(self, model: TransformerBridge) -> dict[str, Change]:
        """What it does to the activations, by the name of the hook point."""
        raise NotImplementedError

    def numbers(self) -> dict[str, Tensor]:
        """The tensors it is made of, by their names."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    @property
    def n_parameters(self) -> int:
        """Numbers stored."""
        return sum(tensor.numel() for tensor in self.numbers().values())

    def learned(self, provenance: Provenance) -> Self:
        """The edit as training leaves it: a copy of its numbers on the CPU, and where they are from."""
        numbers = {name: t.detach().cpu().clone() for name, t in self.numbers().items()}
        return replace(self, provenance=provenance, **numbers)

    def hooks(
        self, model: TransformerBridge, positions: PositionTracker | None = None
    ) -> list[tuple[str, HookFunction]]:
        """Hook functions for `model.hooks(fwd_hooks=…)`.

        Args:
            model: The model they are meant for.
            positions: The tracker of the positions to edit; only scope "all" does without.

        Raises:
            ModelMismatchError, UnsupportedError: The edit does not fit the model.
            LofitLensError: Another scope than "all" without a tracker.
        """
        self.check_model(model)
        if positions is None and self.scope != "all":
            raise LofitLensError(
                f'hooks() alone cannot follow scope "{self.scope}"; use `with edit.applied(model)`.'
            )

        def hook(change: Change) -> HookFunction:
            def edit(before: Any, hook: object = None) -> Any:  # noqa: ARG001
                after = change(before.float()).to(before.dtype)
                return after if positions is None else positions.limit(after, before)

            return edit

        return [(name, hook(change)) for name, change in self.changes(model).items()]

    @contextmanager
    def applied(self, model: TransformerBridge) -> Iterator[PositionTracker]:
        """Edit every forward pass of `model` inside the context.

        Contexts nest: each adds its edit to those outside it, and takes only its own away, also
        after an exception. Run `backward` inside the context.

        Yields:
            The tracker; with another scope than "all", `set_prompt_lengths` on it says how many
            tokens of each row are prompt when prompt and answer come in one forward pass.

        Raises:
            ModelMismatchError, UnsupportedError: See `hooks`.

        Examples:
            >>> with edit.applied(model):  # doctest: +SKIP
            ...     model.generate("Q: Can pigs fly? A:", max_new_tokens=16)
        """
        with (
            tracked_positions(model, self.scope) as positions,
            model.hooks(fwd_hooks=self.hooks(model, positions)),
        ):
            yield positions

    def _on_device(self, parts: Callable[[torch.device], T]) -> Callable[[torch.device], T]:
        """`parts` of the device of the activations; of a learned edit they are made there once."""
        learning = any(tensor.requires_grad for tensor in self.numbers().values())
        return parts if learning else cache(parts)


class LinearEdit(HookedEdit):
    """A hooked edit whose numbers can be multiplied by a strength: `strength * edit`."""

    def __post_init__(self) -> None:
        check_scope(self.scope)
        for name, tensor in self.numbers().items():
            # in bfloat16, 1 + scale would round small scales away
            object.__setattr__(self, name, tensor.float())
            if not torch.isfinite(tensor).all():
                raise LofitLensError(f"{name} holds numbers that are not finite.")

    def __mul__(self, strength: float) -> Self:
        numbers = {name: strength * tensor for name, tensor in self.numbers().items()}
        return replace(self, provenance=unmeasured(self.provenance), **numbers)

    __rmul__ = __mul__
