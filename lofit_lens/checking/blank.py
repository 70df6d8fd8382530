"""A bridge with the shape of a model and no numbers in it, made from its configuration alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensorMode,
    UnsupportedFakeTensorException,
)

from lofit_lens.attention import heads_of, key_value_heads, z_widths
from lofit_lens.checking.memory import Sizes, mlp_width
from lofit_lens.errors import UnsupportedError
from lofit_lens.export import new_with_bias
from lofit_lens.grid import HeadGrid
from lofit_lens.loading.boot import family_of, nothing_installed
from lofit_lens.tokenizer import stand_in
from lofit_lens.usable import known_family

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True)
class Shape:
    """What a configuration tells of a model.

    Attributes:
        architecture: Class of the model.
        heads: Layers x heads.
        z_widths: Width of z by layer; 0 where a layer has no heads.
        n_key_value_heads: Key/value heads of a layer.
        n_ctx: Context in tokens.
        sizes: What memory is reckoned by.
        exported_as: Class of the checkpoint that `export_checkpoint` writes for an edit with a bias;
            None if it refuses, or if this is not known.
        not_exported: Why it refuses.
    """

    architecture: str
    heads: HeadGrid
    z_widths: tuple[int, ...]
    n_key_value_heads: int
    n_ctx: int
    sizes: Sizes
    exported_as: str | None
    not_exported: str | None


def shape_of(source: str, revision: str | None) -> Shape | None:
    """Read the shape of a model without its weights; None where that cannot be done.

    Tensors are placeholders of PyTorch (fake tensors): a model of any size takes no memory, and the
    bridge on it is looked at by the same code as a loaded one. A few families look at numbers when
    they are built (vision towers), and have none here.

    Raises:
        UnsupportedError: TransformerLens does not know the family, or it has no heads.
    """
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.model_bridge.sources.transformers.helpers import (
        get_hf_model_class_for_architecture,
    )

    config, architecture = family_of(source, revision)
    kind = get_hf_model_class_for_architecture(architecture)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), nothing_installed(), known_family(config):
            stock, wrapped = (_blank(kind, config) for _ in range(2))
            model = TransformerBridge.boot_transformers(
                source, hf_model=wrapped, device="cpu", dtype=torch.float32, tokenizer=stand_in()
            )
            return _read(model, stock, *_export(stock, model))
    except (DataDependentOutputException, UnsupportedFakeTensorException):
        return None


def shape_of_loaded(model: TransformerBridge) -> Shape:
    """The shape of a loaded model; what it would be exported as is not looked for."""
    return _read(model, model.original_model, None, None)


def _read(
    model: TransformerBridge, stock: Any, exported_as: str | None, not_exported: str | None
) -> Shape:
    cfg: Any = model.cfg
    widths = z_widths(model)
    return Shape(
        architecture=str(cfg.architecture),
        heads=heads_of(model),
        z_widths=widths,
        n_key_value_heads=key_value_heads(cfg),
        n_ctx=cfg.n_ctx,
        sizes=Sizes(
            parameters=sum(p.numel() for p in stock.parameters()),
            n_layers=cfg.n_layers,
            d_model=cfg.d_model,
            d_heads=cfg.n_heads * max(widths),
            d_mlp=mlp_width(stock.config.get_text_config()),
            d_keys=key_value_heads(cfg) * max(widths),
            d_vocab=cfg.d_vocab,
        ),
        exported_as=exported_as,
        not_exported=not_exported,
    )


def _blank(kind: Any, config: Any) -> Any:
    model = kind.from_config(config, attn_implementation="eager", dtype=torch.float32)
    model.config.architectures = model.config.architectures or [type(model).__name__]
    return model.eval()


def _export(stock: Any, model: TransformerBridge) -> tuple[str | None, str | None]:
    try:
        return type(new_with_bias(stock, model, heads_of(model).layers[0])).__name__, None
    except UnsupportedError as error:
        return None, str(error)
