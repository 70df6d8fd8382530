"""The rivals, each the way its users run it, on plain Hugging Face models.

Written anew from the descriptions of the methods. Where a peer leaves a choice, it gets the faster
one: no dropout, no key/value cache in training, padding to the longest text of a batch and not to a
fixed length.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear
from torch.nn.utils.rnn import pad_sequence

from lofit_lens.heads import HeadSet
from lofit_lens.tokens import EncodedText

IGNORED = -100


@dataclass(frozen=True)
class Padded:
    """Texts padded on the right, as the collators of Hugging Face do it.

    Attributes:
        input_ids: Token ids.
        attention_mask: 1 for real tokens.
        labels: Token ids of the answers, -100 elsewhere.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor


def padded(texts: Sequence[EncodedText], pad: int, device: torch.device) -> Padded:
    """One batch."""
    ids = [torch.tensor(text.ids) for text in texts]
    labels = [row.clone() for row in ids]
    for row, text in zip(labels, texts, strict=True):
        row[: text.n_prompt] = IGNORED
    ones = [torch.ones_like(row) for row in ids]
    return Padded(
        *(
            pad_sequence(rows, batch_first=True, padding_value=value).to(device)
            for rows, value in ((ids, pad), (ones, 0), (labels, IGNORED))
        )
    )


def own_loss(model: Any, batch: Padded) -> Tensor:
    """What `Trainer` computes: the model's own loss, with logits of every position."""
    return model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels,
        use_cache=False,
    ).loss  # fmt: skip


def loss_of_answers(model: Any, batch: Padded) -> Tensor:
    """The same number with logits of the positions that predict a token of an answer only."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = causal.model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
    ).last_hidden_state
    predicts = batch.labels[:, 1:] != IGNORED
    logits = causal.lm_head(hidden[:, :-1][predicts])
    return cross_entropy(logits.float(), batch.labels[:, 1:][predicts])


def lora(model: Any) -> tuple[Any, list[Tensor]]:
    """LoRA of rank 8 on queries and values, by `peft`; its weights too."""
    config = LoraConfig(r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    with torch.random.fork_rng(), warnings.catch_warnings():
        torch.manual_seed(0)
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an old name
        adapted = get_peft_model(model, config)
    return adapted, [weight for weight in adapted.parameters() if weight.requires_grad]


def head_loop(model: Any, heads: HeadSet, bias: Tensor) -> list[nn.Parameter]:
    """LoFiT's own way: in each layer a loop over all heads, active or not, writing into slices.

    Every head has a scale and a bias. Stage 2 trains the biases of the chosen heads; the other
    numbers stay zero and are computed with all the same.

    Args:
        model: Is changed for good.
        heads: The chosen heads.
        bias: Their biases, row by row.

    Returns:
        The trained biases, in the order of `heads`.
    """
    d_head = bias.shape[1]
    trained = [nn.Parameter(row.to(model.dtype)) for row in bias.detach().clone()]
    rank = {tuple(head): i for i, head in enumerate(heads)}
    for layer, block in enumerate(model.model.layers):
        zeros = [bias.new_zeros(d_head, dtype=model.dtype) for _ in range(heads.n_heads)]
        biases = [
            trained[rank[layer, head]] if (layer, head) in rank else zeros[head]
            for head in range(heads.n_heads)
        ]
        block.self_attn.o_proj.register_forward_pre_hook(_looped(zeros, biases))
    return trained


def _looped(scales: Sequence[Tensor], biases: Sequence[Tensor]) -> Callable[..., tuple[Tensor]]:
    size = len(scales[0])

    def edit(_module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        z = args[0].clone()
        for head, (scale, bias) in enumerate(zip(scales, biases, strict=True)):
            part = slice(head * size, (head + 1) * size)
            z[..., part] = (scale + 1) * z[..., part].clone() + bias
        return (z,)

    return edit


class EditedProjection(nn.Module):
    """An output projection with the affine edit of its input written into it: no hook at all."""

    def __init__(self, projection: nn.Linear, scale: Tensor | None, bias: Tensor | None) -> None:
        super().__init__()
        self.projection, self.scale, self.bias = projection, scale, bias

    def forward(self, z: Tensor) -> Tensor:
        """`W_O ((1 + scale) z + bias)`, the edit in float32."""
        after = z.float()
        if self.scale is not None:
            after = after * (1 + self.scale.flatten())
        if self.bias is not None:
            after = after + self.bias.flatten()
        return linear(after.to(z.dtype), self.projection.weight, self.projection.bias)


def written_in(model: Any, scale: Tensor | None, bias: Tensor | None) -> None:
    """Edit every layer inline, by `[layer, head, d_head]` numbers; changes the model for good."""
    for layer, block in enumerate(model.model.layers):
        block.self_attn.o_proj = EditedProjection(
            block.self_attn.o_proj,
            None if scale is None else scale[layer],
            None if bias is None else bias[layer],
        )


@torch.no_grad()
def scored_one_by_one(model: Any, texts: Sequence[EncodedText]) -> Tensor:
    """A forward pass for each answer, with logits of every position, as the code of ITI does it."""
    scores = []
    for text in texts:
        ids = torch.tensor([text.ids], device=model.device)
        logprobs = model(ids).logits[0].float().log_softmax(-1)
        predicted = logprobs[text.n_prompt - 1 : -1]
        scores.append(predicted.gather(-1, ids[0, text.n_prompt :, None]).sum())
    return torch.stack(scores).cpu()


@torch.no_grad()
def scored_in_batches(
    model: Any, texts: Sequence[EncodedText], pad: int, batch_size: int
) -> Tensor:
    """Batches of like length, padded on the right, as evaluation harnesses do it; no cache."""
    scores = torch.empty(len(texts))
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i].ids))
    for some in _chunks(order, batch_size):
        batch = padded([texts[i] for i in some], pad, model.device)
        logits = model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
        ).logits
        for row, i in enumerate(some):
            text = texts[i]
            answer = slice(text.n_prompt - 1, len(text.ids) - 1)
            logprobs = logits[row, answer].float().log_softmax(-1)
            targets = batch.input_ids[row, text.n_prompt : len(text.ids), None]
            scores[i] = logprobs.gather(-1, targets).sum()
    return scores


def _chunks(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
