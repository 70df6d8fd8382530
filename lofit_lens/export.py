"""Exporting a tuned model as a stock Hugging Face checkpoint, proved by its logits."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lofit_lens.attention import output_projection
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import LofitLensError, UnsupportedError
from lofit_lens.folding import check_foldable, fold_projection
from lofit_lens.identity import source_of, weights_processed
from lofit_lens.loading.boot import family_of
from lofit_lens.loading.find import find_model
from lofit_lens.loading.gguf import GGUF, read_gguf
from lofit_lens.loading.hub import on_hub
from lofit_lens.model import read_tokenizer
from lofit_lens.randomness import random_state_kept

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest logit difference accepted, relative to the largest logit, by type on disk."""

LOST = 0.2
"""Largest share of the edit's own effect that may be lost in rounding."""

REHOMED = {"MistralForCausalLM": "sliding_window", "Qwen2ForCausalLM": "use_sliding_window"}
"""Families without a bias in the output projection that are a Llama but for the name, and the
configuration entry that must be off for this to hold."""


@dataclass(frozen=True)
class ExportReport:
    """What was written, and the proof.

    Attributes:
        folder: The checkpoint.
        architecture: Class that plain `transformers` loads it as.
        max_logit_difference: Between the reloaded checkpoint and the hooked model.
        largest_logit: Largest absolute logit of the hooked model, for scale.
    """

    folder: Path
    architecture: str
    max_logit_difference: float
    largest_logit: float


@random_state_kept()
def export_checkpoint(
    model: TransformerBridge, intervention: HeadIntervention, folder: str | Path
) -> ExportReport:
    """Fold an intervention into a copy of the model's checkpoint that needs none of our code.

    The checkpoint is read anew from where `model` was loaded, folded, saved with the tokenizer,
    reloaded with plain `transformers`, and its logits compared with those of the hooked model.

    Args:
        model: The model, loaded from a folder or from the hub.
        intervention: An edit of scope "all".
        folder: Where to write; must not exist, or be empty.

    Raises:
        UnsupportedError: The family drops a bias of the output projection on reload, the edit
            depends on the position, the weights are quantised, or the logits do not agree; nothing
            is left behind.
        LofitLensError: The folder is not empty, or the model was not loaded from a checkpoint.

    Examples:
        >>> export_checkpoint(model, tuned, "llama2-truth/").max_logit_difference  # doctest: +SKIP
        1.9e-06
    """
    check_foldable(intervention)
    intervention.check_model(model)
    folder = Path(folder)
    check_new_folder(folder)
    if weights_processed(model):
        raise UnsupportedError(
            "TransformerLens has processed the weights of this model. Load it with `load_model`."
        )
    layers = intervention.heads.layers()
    for layer in layers:
        output_projection(model, layer)  # refuses quantised weights before any are read
    source, revision = source_of(model)
    stock = _read_source(source, revision, model.cfg.dtype)
    if intervention.bias is not None:
        stock = _with_bias(stock, model, layers[0])
    for layer in layers:
        fold_projection(_projection(stock, model, layer), intervention, layer)
    made_here = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        stock.save_pretrained(folder)
        tokenizer = read_tokenizer(source, revision=revision)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        return _proved(model, intervention, folder, stock.dtype)
    except BaseException:
        shutil.rmtree(folder)
        if not made_here:
            folder.mkdir()
        raise


def check_new_folder(folder: Path) -> None:
    """Refuse a folder with anything in it.

    Raises:
        LofitLensError: There is something.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise LofitLensError(f"{folder} exists already. Name a new folder for the checkpoint.")


def _read_source(source: str, revision: str | None, dtype: torch.dtype) -> Any:
    """The untouched checkpoint that a bridge was booted from; that of a GGUF file in its type."""
    from transformers import AutoModelForCausalLM

    found = find_model(source)
    with on_hub(found, revision):
        if found.endswith(GGUF):
            config, _ = family_of(found, revision)
            return read_gguf(found, config, revision=revision, dtype=dtype).eval()
        return AutoModelForCausalLM.from_pretrained(found, revision=revision, dtype="auto").eval()


def _projection(stock: Any, model: TransformerBridge, layer: int) -> Any:
    """The output projection of a layer of a plain Hugging Face model."""
    names: Any = model.adapter.component_mapping
    blocks = names["blocks"]
    attention = blocks.submodules["attn"]
    path = f"{blocks.name}.{layer}.{attention.name}.{attention.submodules['o'].name}"
    return stock.get_submodule(path)


def _with_bias(stock: Any, model: TransformerBridge, layer: int) -> Any:
    """A plain model with the same weights whose output projections keep a bias when reloaded."""
    biased = new_with_bias(stock, model, layer)
    if biased is stock:
        return stock
    biased = biased.to(stock.dtype)
    missing, unexpected = biased.load_state_dict(stock.state_dict(), strict=False)
    assert not unexpected and all(key.endswith(".bias") for key in missing)
    for key in missing:
        nn.init.zeros_(biased.get_parameter(key))
    biased.generation_config = stock.generation_config
    return biased.eval()


def new_with_bias(stock: Any, model: TransformerBridge, layer: int) -> Any:
    """A plain model of the same shape whose output projections keep a bias when reloaded.

    Args:
        stock: The checkpoint in plain `transformers`; returned where it has such a bias itself.
        model: The bridge of it.
        layer: A layer with heads.

    Raises:
        UnsupportedError: The family drops such a bias.
    """
    if _projection(stock, model, layer).bias is not None:
        return stock
    name = type(stock).__name__
    config = stock.config.to_dict()
    if name in REHOMED:
        if config.get(REHOMED[name]):
            raise UnsupportedError(
                f"{name} keeps no bias in its attention output projection, and with "
                f"{REHOMED[name]} it cannot be saved as a Llama either. Ship the intervention with "
                "`save` and apply it with hooks."
            )
        biased = _rehome_as_llama(config)
    else:
        biased = type(stock)(type(stock.config).from_dict(config | {"attention_bias": True}))
    if _projection(biased, model, layer).bias is None:
        raise UnsupportedError(
            f"{name} drops a bias of the attention output projection when it is reloaded, so the "
            "checkpoint would silently lose the edit. Ship the intervention with `save` and apply it "
            "with hooks, or fold it in memory with `fold`."
        )
    return biased


def _rehome_as_llama(config: dict[str, Any]) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    known = LlamaConfig().to_dict().keys() - {"model_type", "architectures"}
    shared = {key: value for key, value in config.items() if key in known}
    shared["head_dim"] = shared.get("head_dim") or (
        config["hidden_size"] // config["num_attention_heads"]
    )
    changes = {"attention_bias": True, "mlp_bias": False}
    return LlamaForCausalLM(LlamaConfig.from_dict(shared | changes))


def _proved(
    model: TransformerBridge, intervention: HeadIntervention, folder: Path, dtype: torch.dtype
) -> ExportReport:
    """Compare the reloaded checkpoint with the hooked model, on two rows of random tokens."""
    from transformers import AutoModelForCausalLM

    shape, seeded = (2, min(32, model.cfg.n_ctx)), torch.Generator().manual_seed(0)
    tokens = torch.randint(model.cfg.d_vocab, shape, generator=seeded).to(model.cfg.device)
    with torch.no_grad():
        clean = model(tokens).float().cpu()
        with intervention.applied(model):
            expected = model(tokens).float().cpu()
    reloaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=model.cfg.dtype)
    reloaded = reloaded.to(tokens.device).eval()
    with torch.no_grad():
        found = reloaded(tokens).logits.float().cpu()
    difference = float((found - expected).abs().max())
    largest = float(expected.abs().max())
    allowed = max(TOLERANCE.get(dtype, 0.0), TOLERANCE.get(model.cfg.dtype, 0.0)) * max(1, largest)
    if not difference <= allowed:
        raise UnsupportedError(
            f"The reloaded checkpoint differs from the hooked model by {difference:.3g} in a logit, "
            f"more than the {allowed:.3g} allowed; it was removed. Ship the intervention with `save`."
        )
    effect = float((expected - clean).abs().max())
    if difference > LOST * effect:
        raise UnsupportedError(
            f"The edit moves a logit by {effect:.3g}, the reloaded checkpoint is off by "
            f"{difference:.3g}: the edit is lost in the rounding of {dtype}; the checkpoint was removed. "
            "Ship the intervention with `save`, or export from weights in float32."
        )
    return ExportReport(folder, type(reloaded).__name__, difference, largest)
