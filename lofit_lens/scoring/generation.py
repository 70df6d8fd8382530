"""Generation in batches, under an edit."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from tqdm.auto import tqdm

from lofit_lens.errors import ScoringError, check_whole
from lofit_lens.fast.in_force import in_force
from lofit_lens.fast.memory import BatchSize, check_batch_size, within_memory
from lofit_lens.scoring.logprobs import batches_by_length
from lofit_lens.scoring.sampling import Sampling, drawn
from lofit_lens.tokens import Encoder

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from lofit_lens.edits.edit import Edit


@dataclass(frozen=True)
class Generation:
    """What a model wrote behind a prompt.

    Attributes:
        text: The continuation, without special tokens, up to the first stop string.
        ended: Whether the model ended it by itself, or with a stop string; if not, it ran into
            `max_new_tokens`.
        n_prompt: Tokens of the prompt.
        n_new: Tokens written, less the one that ended them.
    """

    text: str
    ended: bool
    n_prompt: int
    n_new: int


def generate_greedily(
    model: TransformerBridge,
    prompts: Sequence[str],
    edit: Edit | None = None,
    *,
    max_new_tokens: int = 16,
    batch_size: BatchSize = 32,
    progress: bool = True,
) -> list[str]:
    """Continue each prompt with the likeliest tokens, up to EOS or another of the model's ends.

    Args:
        model: A bridge, in eval mode.
        prompts: Texts to continue, as the model's tokenizer reads them; behind the prompts of a chat
            the end of the turn is an end too.
        edit: The edit in force; None generates with the model as it is.
        max_new_tokens: Tokens per continuation.
        batch_size: Prompts per batch; they are padded on the left. "auto" takes the largest that
            fits into memory.
        progress: Whether to show a bar.

    Returns:
        The continuations, without the prompts and without special tokens.

    Raises:
        ScoringError: The model gave a logit that is NaN.
    """
    how = {"batch_size": batch_size, "progress": progress}
    found = generations(model, prompts, edit, max_new_tokens=max_new_tokens, **how)
    return [generation.text for generation in found]


def generations(
    model: TransformerBridge,
    prompts: Sequence[str],
    edit: Edit | None = None,
    *,
    max_new_tokens: int = 16,
    stop: Sequence[str] = (),
    sampling: Sampling | None = None,
    batch_size: BatchSize = 32,
    progress: bool = True,
) -> list[Generation]:
    """What `generate_greedily` gives and how each continuation ended, or what is drawn in its place.

    Args:
        model: As there, like all that follows.
        prompts: Texts to continue.
        edit: The edit in force.
        max_new_tokens: Tokens per continuation.
        stop: Texts that end a continuation where it holds one of them.
        sampling: How tokens are drawn; None takes the likeliest.
        batch_size: Prompts per batch.
        progress: Whether to show a bar.
    """
    check_whole("max_new_tokens", max_new_tokens, 1)
    check_batch_size(batch_size)
    encoder = Encoder(model)
    encoded = [encoder.prompt(prompt) for prompt in prompts]
    ends = encoder.ends_behind(prompts)
    device = next(model.original_model.parameters()).device

    def continued(size: int) -> list[Generation]:
        bar.reset()
        results: dict[int, Generation] = {}
        for indices in batches_by_length([len(text.ids) for text in encoded], size):
            batch = encoder.batch([encoded[i] for i in indices])
            n_padded = batch.tokens.shape[1]
            with nullcontext() if sampling is None else drawn(model, sampling, indices):
                produced = model.generate(
                    batch.tokens,
                    attention_mask=batch.attention_mask,
                    max_new_tokens=max_new_tokens,
                    do_sample=False,
                    stop_at_eos=bool(ends),
                    eos_token_id=ends or None,  # pyright: ignore[reportArgumentType]
                    stopping_criteria=[_stops(model, stop, n_padded)] if stop else None,
                    return_type="tokens",
                    verbose=False,
                )
            assert isinstance(produced, torch.Tensor)
            for i, new in zip(indices, produced[:, n_padded:].tolist(), strict=True):
                results[i] = _continuation(encoder, encoded[i].ids, new, ends, stop)
            bar.update(len(indices))
        return [results[i] for i in range(len(encoded))]

    with (
        in_force(model, edit),
        _last_logits_alone(model),
        watched_for_nan(model),
        tqdm(total=len(prompts), desc="generate", leave=False, disable=not progress) as bar,
    ):
        return within_memory(continued, batch_size, device)


@contextmanager
def _last_logits_alone(model: TransformerBridge) -> Iterator[None]:
    """Unembed the last token of each pass alone, as `generate` of Transformers does.

    TransformerLens asks for those of all tokens of the prompts, which with a large vocabulary take
    more memory than all else.
    """
    hf_model: Any = model.original_model
    if "logits_to_keep" not in inspect.signature(hf_model.forward).parameters:
        yield
        return
    with hf_model.register_forward_pre_hook(
        lambda _module, args, kwargs: (args, kwargs | {"logits_to_keep": 1}), with_kwargs=True
    ):
        yield


@contextmanager
def watched_for_nan(model: TransformerBridge) -> Iterator[None]:
    """Refuse what is generated inside the context if any step had NaN among its logits.

    Raises:
        ScoringError: One had.
    """
    found: list[torch.Tensor] = []

    def watch(_module: object, _args: object, output: Any) -> None:
        seen = output.logits[:, -1].isnan().any()
        found[:] = [seen | found[0] if found else seen]

    with model.original_model.register_forward_hook(watch):
        yield
    if found and bool(found[0]):
        raise ScoringError(
            "The model gave logits that are not a number, so what it generated means nothing. Check "
            "the edit's size and the model's dtype (float16 overflows)."
        )


def _stops(
    model: TransformerBridge, stop: Sequence[str], n_prompt: int
) -> Callable[..., torch.Tensor]:
    """Which rows end with a stop string; unlike that of Transformers it does not look into prompts."""
    window = max(len(text.encode()) for text in stop) + 4  # a token has a byte or more
    tokenizer: Any = model.tokenizer

    def stopped(tokens: torch.Tensor, _scores: object, **_: object) -> torch.Tensor:
        tails = tokenizer.batch_decode(tokens[:, max(n_prompt, tokens.shape[1] - window) :])
        found = [any(text in tail for text in stop) for tail in tails]
        return torch.tensor(found, device=tokens.device)

    return stopped


def _continuation(
    encoder: Encoder,
    prompt: Sequence[int],
    new: list[int],
    ends: Sequence[int],
    stop: Sequence[str],
) -> Generation:
    """The new tokens, decoded behind the prompt so that a leading blank is not lost."""
    n_new = next((place for place, token in enumerate(new) if token in ends), len(new))
    whole = encoder.decode([*prompt, *new[:n_new]]).removeprefix(encoder.decode(prompt))
    text = min((whole.partition(mark)[0] for mark in stop), key=len, default=whole)
    return Generation(text, n_new < len(new) or text != whole, len(prompt), n_new)
