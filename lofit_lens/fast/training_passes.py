"""Forward passes of training: what the edit does not change is computed once per data set."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lofit_lens.attention import key_value_heads, z_widths
from lofit_lens.edits.by_row import StackedHeads
from lofit_lens.fast.forward_passes import ForwardPasses
from lofit_lens.fast.in_force import in_force
from lofit_lens.fast.keys_values import KeysValues, joined
from lofit_lens.fast.layout import Bundle, lay_out, side_by_side
from lofit_lens.fast.memory import free_memory
from lofit_lens.fast.replay import Replay
from lofit_lens.fast.switches import taken
from lofit_lens.fast.trial import same, works
from lofit_lens.positions import SPARE_PROMPTS
from lofit_lens.sequences import common_start
from lofit_lens.tokens import EncodedText

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from lofit_lens.edits.edit import Edit

AT_ONCE, TOKENS_AT_ONCE = 32, 16_384
"""Rows per forward pass where no gradient is needed, and tokens of its preparations."""

_LOG = logging.getLogger(__name__)

Group = Sequence[EncodedText]

GroupLogprobs = Callable[..., Tensor]
"""From numbers of groups, and of the run that each belongs to, to summed log-probabilities."""


@contextmanager
def training_passes(
    model: TransformerBridge,
    groups: Sequence[Group],
    edit: Edit,
    *,
    checkpointed: bool = False,
) -> Iterator[GroupLogprobs]:
    """Put an edit in force on texts that go through the model again and again.

    What the edit does not change is computed here, once: the keys and values of prompts that its
    scope leaves alone, and everything below the lowest layer it acts on. Both are held to a share
    of the free memory (`Shortcuts.memory`), beyond which every pass computes them anew. If hooks
    of others or other edits are in force, only the wrappers that nobody listens to are passed.

    Args:
        model: A bridge. Hooks must not change inside the context.
        groups: Texts that belong together and have the same number of prompt tokens, such as the
            candidates of an item.
        edit: The edit in training.
        checkpointed: Whether activations will be computed again in the backward pass, in which
            families take no keys and values.

    Yields:
        A function from numbers of groups, and of the run each of them belongs to where `edit` is a
        `StackedHeads`, to the summed log-probabilities of the answers of their texts, in order;
        differentiable. Run `backward` inside the context.
    """
    longest = max(len(text.ids) for group in groups for text in group)
    with in_force(model, edit, longest=longest, again=True) as passes, ExitStack() as contexts:
        prepared = _Prepared(passes, groups, edit)
        spared = edit.scope in SPARE_PROMPTS
        if passes.shares_rows and spared and taken().prompts and not checkpointed:
            prepared.keep_prompts()
        if passes.replay is not None:
            prepared.keep_below(passes.replay, contexts)
        yield prepared.logprobs


class _Prepared:
    """Groups of texts, ready to go through the model."""

    def __init__(self, passes: ForwardPasses, groups: Sequence[Group], edit: Edit) -> None:
        self._passes = passes
        self._model = passes.model
        self._groups = groups
        self._own = edit.own if isinstance(edit, StackedHeads) else None
        self._prompts: list[list[KeysValues]] | None = None
        self._replay: Replay | None = None
        self._recorded: dict[tuple[int, int], int] = {}
        self._layout: list[list[Bundle]] = [
            [lay_out(group)] if passes.shares_rows else [lay_out([text]) for text in group]
            for group in groups
        ]

    def logprobs(
        self, groups: Sequence[int], runs: Sequence[int] | None = None, *, apart: bool = False
    ) -> Tensor:
        """Summed log-probabilities of the answers of some groups."""
        numbers = [(i, part) for i in groups for part in range(len(self._layout[i]))]
        bundles = [self._layout[i][part] for i, part in numbers]
        runs = runs or [0] * len(groups)
        owners = [run for i, run in zip(groups, runs, strict=True) for _ in self._layout[i]]
        rows = [[i] for i in range(len(bundles))]
        if self._passes.shares_rows and self._prompts is None and not apart:
            lengths = [len(bundle.tokens) for bundle in bundles]
            rows = side_by_side(lengths, self._model.cfg.d_model, owners)
        if self._own is not None:
            self._own([owners[row[0]] for row in rows])
        if self._replay is not None:
            self._replay.choose([[self._recorded[numbers[i]] for i in row] for row in rows])
        past = joined([self._prompts[i] for i in groups]) if self._prompts else None
        return self._passes.logprobs(bundles, rows, past=past)

    def keep_prompts(self) -> None:
        """Run the prompts, all but their last token, and keep their keys and values."""
        lengths = [
            common_start(text.ids[: text.n_prompt] for text in group) - 1 for group in self._groups
        ]
        cfg, weight = self._model.cfg, next(self._model.original_model.parameters())
        numbers = 2 * key_value_heads(cfg) * sum(z_widths(self._model)) * sum(lengths)
        size = numbers * weight.element_size()
        if min(lengths) < 1 or not self._fits(size, "the keys and values of prompts"):
            return
        kept: dict[int, list[KeysValues]] = {}
        for some in _by_length(lengths):
            longest = max(lengths[i] for i in some)
            tokens = torch.full((len(some), longest), self._passes.pad)
            for row, i in zip(tokens, some, strict=True):
                row[: lengths[i]] = torch.tensor(self._groups[i][0].ids[: lengths[i]])
            layers = self._passes.keys_values(tokens.to(cfg.device))
            for row, i in enumerate(some):
                own = slice(row, row + 1), slice(None), slice(lengths[i])
                kept[i] = [(keys[own].clone(), values[own].clone()) for keys, values in layers]
        self._prompts = [kept[i] for i in range(len(lengths))]
        self._layout = [
            [lay_out(group, skip=n)] for group, n in zip(self._groups, lengths, strict=True)
        ]

    def keep_below(self, replay: Replay, contexts: ExitStack) -> None:
        """Run all texts once, and keep what lies below the edit."""
        lengths = [sum(len(bundle.tokens) for bundle in bundles) for bundles in self._layout]
        size = replay.bytes_per_token(self._model) * sum(lengths)
        if not self._fits(size, "what lies below the edit"):
            return
        with torch.no_grad():
            probe = list(range(min(2, len(lengths))))
            before = self.logprobs(probe)
            if not works(self._record, replay, lengths):
                return
            with ExitStack() as trial:
                trial.enter_context(replay.put_in())
                self._replay = replay
                if works(lambda: same(self._model, before, self.logprobs(probe))):
                    contexts.enter_context(trial.pop_all())
                else:
                    self._replay = None

    def _record(self, replay: Replay, lengths: Sequence[int]) -> bool:
        for some in _by_length(lengths):
            for i in some:
                for part in range(len(self._layout[i])):
                    self._recorded[i, part] = len(self._recorded)
            rows = [len(bundle.tokens) for i in some for bundle in self._layout[i]]
            with replay.recorded(rows):
                self.logprobs(some, apart=True)
        return True

    def _fits(self, size: int, what: str) -> bool:
        limit = taken().memory * free_memory(next(self._model.original_model.parameters()).device)
        if size > limit:
            _LOG.info("Not kept: %s, %.1f GB of %.1f GB.", what, size / 1e9, limit / 1e9)
        return size <= limit


def _by_length(lengths: Sequence[int]) -> Iterator[list[int]]:
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    while order:
        fitting = min(AT_ONCE, max(1, TOKENS_AT_ONCE // max(1, lengths[order[0]])))
        yield order[:fitting]
        order = order[fitting:]
