"""The bench: the model and the plain text on which every cell of an experiment is measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lofit_lens.analysis.measure.side_effects import (
    SideEffects,
    reference_on,
    sample_texts,
    side_effects,
)
from lofit_lens.analysis.study.keys import key_of
from lofit_lens.attention import heads_of
from lofit_lens.edits.edit import Edit
from lofit_lens.errors import LofitLensError
from lofit_lens.fast.trial import try_shortcuts
from lofit_lens.fast.wrappers import only_counts
from lofit_lens.grid import HeadGrid
from lofit_lens.identity import fingerprint, source_of, tokenizer_of
from lofit_lens.loading.quantized import quantization_of
from lofit_lens.provenance import library_versions
from lofit_lens.tokens import EncodedText

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from lofit_lens.analysis.methods.settings import Settings


@dataclass
class Measured:
    """Seconds and tokens of a stretch of work."""

    seconds: float = 0.0
    tokens: int = 0


@dataclass(frozen=True, eq=False)
class Bench:
    """Where all cells are measured alike.

    Attributes:
        model: The model.
        texts: Plain text for side effects; without any, none are measured.
        n_answers: Multiple-choice questions to answer in free text.
        batch_size: Sequences per forward pass where side effects are measured.
        progress: Whether steps show bars of their own.
    """

    model: TransformerBridge
    texts: Sequence[EncodedText]
    n_answers: int = 0
    batch_size: int = 32
    progress: bool = False

    @classmethod
    def of(
        cls, model: TransformerBridge, texts: Sequence[EncodedText] | None = None, **options: Any
    ) -> Bench:
        """The bench of a model; without texts, 64 are sampled from it with a fixed seed."""
        return cls(model, sample_texts(model) if texts is None else tuple(texts), **options)

    @property
    def heads(self) -> HeadGrid:
        """The heads of the model."""
        return heads_of(self.model)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that results depend on beside the steps, as plain JSON values."""
        grid = self.heads
        return {
            "model": fingerprint(self.model).weights,
            **_types(self.model),
            "shape": [grid.n_layers, grid.n_heads],
            **({"without": list(grid.without)} if grid.without else {}),
            "texts": key_of([text.ids for text in self.texts]),
            "n_answers": self.n_answers,
            "versions": library_versions(),
        }

    def side_effects(self, edit: Edit | None) -> SideEffects | None:
        """What an edit does to the plain text."""
        if not self.texts:
            return None
        return side_effects(
            self.model, edit, self.texts, batch_size=self.batch_size, reference=self._reference
        )

    def kl(self, edit: Edit) -> float:
        """The KL divergence of an edit from the unedited model on the plain text.

        Raises:
            LofitLensError: There is no text.
        """
        found = self.side_effects(edit)
        if found is None:
            raise LofitLensError("A KL budget needs plain text to measure on; texts is empty.")
        return found.kl

    def kl_for(self, settings: Settings) -> Callable[[Edit], float] | None:
        """What measures `kl`, if the settings have a budget for it."""
        return None if settings.kl_budget is None else self.kl

    @cached_property
    def _reference(self) -> Any:
        return reference_on(self.model, self.texts, batch_size=self.batch_size)

    @contextmanager
    def measured(self) -> Iterator[Measured]:
        """Count the seconds, and the tokens that are embedded, padding included."""
        try_shortcuts(self.model)  # once for each process; no part of any step's cost
        measured, started = Measured(), time.perf_counter()

        def count(_module: object, _args: object, embedded: Any) -> None:
            measured.tokens += embedded.shape[0] * embedded.shape[1]

        with self.model.embed.original_component.register_forward_hook(only_counts(count)):
            try:
                yield measured
            finally:
                measured.seconds = time.perf_counter() - started


def loaded_as(model: TransformerBridge) -> dict[str, str | None]:
    """What a model was loaded with: source, revision, type, quantization, and its tokenizer's rule.

    Raises:
        LofitLensError: The model was built in memory.
    """
    source, revision = source_of(model)
    loaded = {"model": source, "revision": revision, "quantization": quantization_of(model)}
    return loaded | _types(model)


def _types(model: TransformerBridge) -> dict[str, str | None]:
    dtype = str(model.cfg.dtype).removeprefix("torch.")
    return {"dtype": dtype, "tokenizer": tokenizer_of(model)}
