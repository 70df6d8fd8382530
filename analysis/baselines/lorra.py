"""LoRRA: an adapter that learns what an instruction changes in the residual stream."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from lofit_lens.analysis.baselines.adapters import AdapterEdit
from lofit_lens.analysis.baselines.contrast import instructions_for
from lofit_lens.analysis.baselines.instructions import before_user, place_of_instruction
from lofit_lens.analysis.baselines.rivals import train_adapter
from lofit_lens.analysis.baselines.wrapping import places_of
from lofit_lens.attention import check_layers
from lofit_lens.errors import LofitLensError
from lofit_lens.scoring.logprobs import batches_by_length
from lofit_lens.tasks.task import Task
from lofit_lens.tokens import Batch, EncodedText, Encoder
from lofit_lens.training.config import TrainingConfig
from lofit_lens.training.loop import check_ready
from lofit_lens.training.objectives import Item, encode_items

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


def train_lorra(
    model: TransformerBridge,
    task: Task,
    config: TrainingConfig,
    *,
    instructions: tuple[str, str] | None = None,
    strength: float = 5.0,
    layers: Sequence[int] | None = None,
    rank: int = 8,
    alpha: int = 16,
    dropout: float = 0.05,
    progress: bool = True,
) -> AdapterEdit:
    """Train LoRRA, low-rank representation adaptation (Zou et al. 2023, section 3.2.1).

    LoRA on query and value of every layer up to the last target layer learns to move the residual
    stream from h to `h + strength * (h_positive - h_negative)`, the streams of the model as it is
    for the plain text and for the text behind either instruction. The loss is the L2 distance to
    that target behind the target layers, its mean over layers and over the positions that predict
    the answer: from the last token of the prompt to the last of the answer, as the authors' response
    includes the end of their prompt. The likelihood of the answer is no part of it, so nor is the
    objective of the task. B starts at zero, so the first loss is the mean length of
    `strength * (h_positive - h_negative)`.

    Texts, loop and schedule are those of the other rivals: each training prompt with its first
    correct answer, in place of the authors' 10,000 general prompts, and a falling learning rate in
    place of a constant one (theirs is 3e-4, for 70 batches of 16). The targets are computed once
    and kept in memory: 4 bytes x answer tokens of all training and validation examples x target
    layers x d_model.

    Args:
        model: A frozen bridge in eval mode.
        task: The task; its training and validation examples are used.
        config: How; `objective`, `beta` and `init_std` are not used.
        instructions: Positive and negative, tokenised by themselves and put in behind BOS, or first
            in what the user of a chat says; None takes those of the task, as the contrast vector does.
        strength: The authors' lorra_alpha.
        layers: The target layers, counted from 0; None takes every second one from 30 to 60% of the
            depth, which for 32 layers are the authors' (9, 11, ..., 19).
        rank: Rank of the added matrices.
        alpha: Their scale is `alpha / rank`.
        dropout: Share of the inputs of A that are set to zero in a training step.
        progress: Whether to show a bar.

    Raises:
        LofitLensError: The scope is not "all", dropout meets gradient checkpointing, the target is
            where the model is already, a layer repeats or lies outside the model, or a text with its
            instruction exceeds the context.
        UnsupportedError: The model does not call these projections one by one.
        TrainingStopped: Training became unstable.
    """
    import peft

    check_ready(model)
    instructions = instructions or instructions_for(task)
    layers = middle_layers(model.cfg.n_layers) if layers is None else tuple(layers)
    if instructions[0] == instructions[1] or not strength or not math.isfinite(strength):
        raise LofitLensError(
            f"LoRRA needs two different instructions and a finite strength that is not 0, got "
            f"{instructions} and {strength}."
        )
    check_layers(layers, model.cfg.n_layers)
    places = places_of(model, ("attn.q", "attn.v"), up_to=max(layers))
    loss = _Distance(model, task, config, instructions, strength, layers)
    peft_config = peft.LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=places
    )
    target = {"instructions": list(instructions), "strength": strength, "layers": list(layers)}
    return train_adapter(
        model, task, peft_config, places,
        replace(config, objective="sft"),  # one text an example, a mean over its tokens
        what={"component": "lorra"} | target, loss=loss, progress=progress,
    )  # fmt: skip


def middle_layers(n_layers: int) -> tuple[int, ...]:
    """Every second layer from 30 to 60% of the depth: 9, 11, ..., 19 of 32, and 1 of 4."""
    return tuple(range(3 * n_layers // 10, 6 * n_layers // 10 + 1, 2))


class _Distance:
    """The loss: how far the residual streams of some items are from where they should be."""

    def __init__(
        self,
        model: TransformerBridge,
        task: Task,
        config: TrainingConfig,
        instructions: tuple[str, str],
        strength: float,
        layers: tuple[int, ...],
    ) -> None:
        self._model = model
        self._encoder = Encoder(model)
        self._layers = layers
        examples = task.train + (task.val if config.validate else ())
        items = encode_items(self._encoder, examples, "sft", task.scoring)
        texts = list(dict.fromkeys(item.texts[0] for item in items))
        size = 2 * (config.examples_at_once)
        plain, place = self._streams(texts, size), before_user(self._encoder, task)
        positive, negative = (
            self._streams([_behind(model, instruction, text, place) for text in texts], size)
            for instruction in instructions
        )
        self._targets: Mapping[EncodedText, Tensor] = {
            text: h + strength * (above - below)
            for text, h, above, below in zip(texts, plain, positive, negative, strict=True)
        }

    def __call__(self, items: Sequence[Item]) -> Float[Tensor, ""]:
        """Distances summed over tokens, their mean over layers; differentiable."""
        texts = [item.texts[0] for item in items]
        h = self._read(self._encoder.batch(texts))
        target = torch.cat([self._targets[text] for text in texts]).to(h.device)
        return (h - target).norm(dim=-1).mean(-1).sum()

    @torch.no_grad()
    def _streams(self, texts: Sequence[EncodedText], size: int) -> list[Tensor]:
        """The residual streams of each text, `[token, layer, d_model]` on the CPU."""
        found = [torch.empty(0)] * len(texts)
        for indices in batches_by_length([len(text.ids) for text in texts], size):
            batch = self._encoder.batch([texts[i] for i in indices])
            parts = self._read(batch).cpu().split(batch.answer_lengths.tolist())
            for i, part in zip(indices, parts, strict=True):
                found[i] = part
        return found

    def _read(self, batch: Batch) -> Float[Tensor, "token layer d_model"]:
        """The stream behind each target layer where answer tokens are predicted, row after row."""
        seen: dict[int, Tensor] = {}

        def keep(layer: int, h: Any, hook: object = None) -> None:  # noqa: ARG001
            seen[layer] = h

        hooks = [(f"blocks.{i}.hook_out", partial(keep, i)) for i in self._layers]
        with self._model.hooks(fwd_hooks=hooks):
            self._model(
                batch.tokens,
                attention_mask=batch.attention_mask,
                use_cache=False,
                stop_at_layer=max(self._layers) + 1,
            )
        device = batch.tokens.device
        h = torch.stack([seen[layer].to(device) for layer in self._layers], dim=2).float()
        kept = int(batch.answer_lengths.max())
        predicts = torch.arange(kept, device=device) >= kept - batch.answer_lengths[:, None]
        return h[:, -(kept + 1) : -1][predicts]


def _behind(
    model: TransformerBridge, instruction: str, text: EncodedText, behind: Sequence[int]
) -> EncodedText:
    """A text with an instruction in front, behind BOS or EOS in its stead, or in a user's turn."""
    tokenizer: Any = model.tokenizer
    added = tokenizer(instruction, add_special_tokens=False)["input_ids"]
    starts = tokenizer.bos_token_id, tokenizer.eos_token_id
    start = place_of_instruction(text.ids, behind, starts)
    ids = (*text.ids[:start], *added, *text.ids[start:])
    if len(ids) > model.cfg.n_ctx:
        raise LofitLensError(
            f"A text of {len(ids)} tokens, instruction included, exceeds the model's context of "
            f"{model.cfg.n_ctx}. Shorten the prompts or the instruction."
        )
    return EncodedText(ids, text.n_prompt + len(added))
