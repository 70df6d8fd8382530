"""Texts that go through the model again and again, as those of a training set."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lofit_lens.attention import key_value_heads, z_widths
from lofit_lens.edits.by_row import StackedHeads
from lofit_lens.fast.direct import direct
from lofit_lens.fast.memory import free_memory
from lofit_lens.fast.passes import summed_logprobs
from lofit_lens.fast.past import Announce, KeysValues, joined, run_past
from lofit_lens.fast.replay import Replay
from lofit_lens.fast.rows import Bundle, common_start, lay_out, side_by_side, stack
from lofit_lens.fast.switches import taken
from lofit_lens.fast.trust import same, standing, works
from lofit_lens.positions import SPARE_PROMPTS, known_prompts
from lofit_lens.tokens import EncodedText, Encoder

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from lofit_lens.edits.edit import Edit

AT_ONCE, TOKENS_AT_ONCE = 32, 16_384
"""Rows per forward pass where no gradient is needed, and tokens of its preparations."""

_LOG = logging.getLogger(__name__)

Group = Sequence[EncodedText]

Passes = Callable[..., Tensor]
"""From numbers of groups, and of the run that each belongs to, to summed log-probabilities."""


@contextmanager
def repeated_passes(
    model: TransformerBridge,
    groups: Sequence[Group],
    edit: Edit,
    *,
    checkpointed: bool = False,
) -> Iterator[Passes]:
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
    known = standing(model)
    longest = max(len(text.ids) for group in groups for text in group)
    shares = known.may_share(model, longest) and not edit.needs_whole_texts
    with ExitStack() as contexts:
        contexts.enter_context(edit.applied(model))
        announce = contexts.enter_context(known_prompts(model))
        replay = Replay(model) if taken().replay and known.alone else None
        is_direct = contexts.enter_context(direct(model))
        shares = shares and is_direct
        passes = _Passes(model, announce, groups, edit, is_direct=is_direct, shares=shares)
        spared = edit.scope in SPARE_PROMPTS
        if shares and spared and taken().prompts and not checkpointed:
            passes.keep_prompts()
        if is_direct and replay is not None and replay.saves:
            passes.keep_below(replay, contexts)
        yield passes.logprobs


class _Passes:
    """Groups of texts, ready to go through the model."""

    def __init__(
        self,
        model: TransformerBridge,
        announce: Announce,
        groups: Sequence[Group],
        edit: Edit,
        *,
        is_direct: bool,
        shares: bool,
    ) -> None:
        self._model = model
        self._announce = announce
        self._groups = groups
        self._own = edit.own if isinstance(edit, StackedHeads) else None
        self._direct = is_direct
        self._pad = Encoder(model).pad
        self._prompts: list[list[KeysValues]] | None = None
        self._replay: Replay | None = None
        self._recording = False
        self._recorded: dict[tuple[int, int], int] = {}
        self._shares = shares
        self._layout: list[list[Bundle]] = [
            [lay_out(group)] if shares else [lay_out([text]) for text in group] for group in groups
        ]

    def logprobs(self, groups: Sequence[int], runs: Sequence[int] | None = None) -> Tensor:
        """Summed log-probabilities of the answers of some groups."""
        numbers = [(i, part) for i in groups for part in range(len(self._layout[i]))]
        bundles = [self._layout[i][part] for i, part in numbers]
        runs = runs or [0] * len(groups)
        owners = [run for i, run in zip(groups, runs, strict=True) for _ in self._layout[i]]
        rows = self._rows(bundles, owners)
        if self._own is not None:
            self._own([owners[row[0]] for row in rows])
        if self._replay is not None:
            self._replay.choose([[self._recorded[numbers[i]] for i in row] for row in rows])
        past = None
        if self._prompts is not None:
            past = joined([self._prompts[i] for i in groups])
        batch = stack(bundles, rows, pad=self._pad, device=self._model.cfg.device)
        return summed_logprobs(self._model, batch, self._announce, direct=self._direct, past=past)

    def _rows(self, bundles: Sequence[Bundle], owners: Sequence[int]) -> list[list[int]]:
        """Which bundles share a row: only those of one run, and none behind a past of its own."""
        if not self._shares or self._prompts is not None or self._recording:
            return [[i] for i in range(len(bundles))]
        lengths = [len(bundle.tokens) for bundle in bundles]
        return side_by_side(lengths, self._model.cfg.d_model, owners)

    def keep_prompts(self) -> None:
        """Run the prompts, all but their last token, and keep their keys and values."""
        lengths = [min(common_start(group), group[0].n_prompt) - 1 for group in self._groups]
        cfg = self._model.cfg
        heads = key_value_heads(cfg)
        size = 2 * heads * sum(z_widths(self._model)) * self._bytes * sum(lengths)
        if min(lengths) < 1 or not self._fits(size, "the keys and values of prompts"):
            return
        kept: dict[int, list[KeysValues]] = {}
        for some in _by_length(lengths):
            longest = max(lengths[i] for i in some)
            tokens = torch.full((len(some), longest), self._pad)
            for row, i in zip(tokens, some, strict=True):
                row[: lengths[i]] = torch.tensor(self._groups[i][0].ids[: lengths[i]])
            layers = run_past(
                self._model, tokens.to(cfg.device), self._announce, direct=self._direct
            )
            for row, i in enumerate(some):
                kept[i] = [
                    (
                        k[row : row + 1, :, : lengths[i]].clone(),
                        v[row : row + 1, :, : lengths[i]].clone(),
                    )
                    for k, v in layers
                ]
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
            if not works(lambda: self._record(replay, lengths)):
                return
            with ExitStack() as trial:
                trial.enter_context(replay.put_in())
                self._replay = replay
                if works(lambda: same(self._model, before, self.logprobs(probe))):
                    contexts.enter_context(trial.pop_all())
                else:
                    self._replay = None

    def _record(self, replay: Replay, lengths: Sequence[int]) -> bool:
        self._recording = True
        try:
            for some in _by_length(lengths):
                for i in some:
                    for part in range(len(self._layout[i])):
                        self._recorded[i, part] = len(self._recorded)
                rows = [len(bundle.tokens) for i in some for bundle in self._layout[i]]
                with replay.recorded(rows):
                    self.logprobs(some)
        finally:
            self._recording = False
        return True

    @property
    def _bytes(self) -> int:
        return next(self._model.original_model.parameters()).element_size()

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
