"""Interventions on disk: safetensors for the numbers, JSON for everything else; no pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.edits.on_residual import ResidualIntervention
from lofit_lens.errors import LofitLensError
from lofit_lens.files import read_json, write_whole
from lofit_lens.heads import HeadSet
from lofit_lens.identity import check_same_model
from lofit_lens.provenance import Provenance

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

INTERVENTION_SCHEMA = 1
TENSORS = "intervention.safetensors"
DESCRIPTION = "intervention.json"


Intervention = HeadIntervention | ResidualIntervention


def save_intervention(intervention: Intervention, folder: str | Path) -> Path:
    """Write an intervention as `intervention.safetensors` and `intervention.json`.

    Args:
        intervention: The edit of heads or of the residual stream; its provenance goes along.
        folder: Made if missing; an intervention in it is replaced.

    Returns:
        The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DESCRIPTION).unlink(missing_ok=True)  # never tensors beside the heads of another edit
    if isinstance(intervention, HeadIntervention):
        tensors = {"scale": intervention.scale, "bias": intervention.bias}
        place: dict[str, Any] = intervention.heads.to_json()
    else:
        tensors = {"vectors": intervention.vectors}
        place = {"n_layers": intervention.n_layers, "layers": list(intervention.layers)}
    stored = {
        name: tensor.detach().float().cpu().contiguous()
        for name, tensor in tensors.items()
        if tensor is not None
    }
    write_whole(
        folder / TENSORS, save(stored)
    )  # safetensors' own file would be readable by one user
    content = {
        "schema": INTERVENTION_SCHEMA,
        **place,
        "scope": intervention.scope,
        "provenance": intervention.provenance.to_json() if intervention.provenance else None,
    }
    (folder / DESCRIPTION).write_text(
        json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return folder


def load_intervention(folder: str | Path, model: TransformerBridge | None = None) -> Intervention:
    """Read an intervention.

    Args:
        folder: What `save_intervention` wrote.
        model: The model it is meant for; None reads it without that check.

    Raises:
        ModelMismatchError: It was made for another model; the message says what differs.
        LofitLensError: The folder holds no intervention, or a damaged one.
    """
    folder = Path(folder)
    content = read_json(folder / DESCRIPTION, schema=INTERVENTION_SCHEMA, what="intervention")
    try:
        tensors: dict[str, torch.Tensor] = load_file(folder / TENSORS)
        origin = content["provenance"]
        shared: dict[str, Any] = {
            "scope": content["scope"],
            "provenance": Provenance.from_json(origin) if origin else None,
            **tensors,
        }
        intervention: Intervention
        if "layers" in content:
            layers, n_layers = tuple(content["layers"]), content["n_layers"]
            intervention = ResidualIntervention(layers=layers, n_layers=n_layers, **shared)
        else:
            intervention = HeadIntervention(HeadSet.from_json(content), **shared)
    except (KeyError, TypeError, ValueError, OSError, SafetensorError) as error:
        raise LofitLensError(f"The intervention in {folder} is damaged: {error}.") from error
    if model is not None and intervention.provenance is not None:
        check_same_model(
            model, intervention.provenance.fingerprint, f"The intervention in {folder}"
        )
    return intervention
