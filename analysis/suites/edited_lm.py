"""The model of lm-evaluation-harness, with an edit in force that is told where prompts end."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from lm_eval.models import huggingface
from torch import Tensor
from tqdm.auto import tqdm

from lofit_lens.errors import ScoringError, UnsupportedError
from lofit_lens.positions import is_tracked, known_prompts
from lofit_lens.scoring.generation import watched_for_nan

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

HFLM: Any = huggingface.HFLM  # what registers it hides its type


class EditedLM(HFLM):
    """lm-eval's own `hf` model around a bridge, for use while an edit is in force on it.

    Requests, batches and sums are lm-eval's. Where an edit follows token positions, only requests
    whose prompts are equally long share a batch, so that it can be told their length; in generation
    the prompt is what goes through the model first.

    Args:
        model: A bridge with a tokenizer.
        batch_size: Requests per forward pass.
        progress: Whether to show bars of the requests.
    """

    def __init__(self, model: TransformerBridge, *, batch_size: int, progress: bool) -> None:
        hf_model: Any = model.original_model
        with patch.object(
            huggingface.eval_logger, "disabled", True
        ):  # it warns of what is done on purpose
            super().__init__(hf_model, tokenizer=model.tokenizer, batch_size=batch_size)
        self._bridge, self._bars = model, progress
        self._n_prompt = 0

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Texts behind prompts."""
        with watched_for_nan(self._bridge):
            return super().generate_until(requests, disable_tqdm or not self._bars)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-probabilities of whole texts.

        Raises:
            UnsupportedError: An edit in force acts at some positions only.
        """
        if is_tracked(self._bridge):
            raise UnsupportedError(
                f"{requests[0].task_name} scores whole texts, in which nothing is prompt, so an edit of "
                'another scope than "all" has no place there. Leave the task out, or use '
                '`edit.with_scope("all")`.'
            )
        return super().loglikelihood_rolling(requests, disable_tqdm)

    def _loglikelihood_tokens(
        self, requests: Sequence[Any], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        score = super()._loglikelihood_tokens
        alike: dict[int, list[int]] = defaultdict(list)
        for place, (_, prompt, answer) in enumerate(requests):
            cut = max(0, len(prompt) + len(answer) - self.max_length - 1)  # from the left
            alike[len(prompt) - cut if is_tracked(self._bridge) else 0].append(place)
        found: dict[int, tuple[float, bool]] = {}
        silent = disable_tqdm or not self._bars
        several = len(alike) > 1  # then one bar for all, in place of one for each
        with tqdm(total=len(requests), desc="score", disable=silent or not several) as bar:
            for self._n_prompt in sorted(alike, reverse=True):
                places = alike[self._n_prompt]
                answers = score([requests[i] for i in places], silent or several, override_bs)
                found |= zip(places, answers, strict=True)
                bar.update(len(places))
        if any(math.isnan(logprob) for logprob, _ in found.values()):
            raise ScoringError(
                "The model gave log-probabilities that are not a number, so they cannot be compared. "
                "Check the edit's size and the model's dtype (float16 overflows)."
            )
        return [found[place] for place in range(len(requests))]

    def _model_call(self, inps: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        with known_prompts(self._bridge) as announce:
            rank = torch.arange(inps.shape[1], device=inps.device).expand_as(inps)
            announce(torch.full_like(rank, self._n_prompt), rank)
            return super()._model_call(inps, *args, **kwargs)
