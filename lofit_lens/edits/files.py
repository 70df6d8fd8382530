"""Edits on disk: safetensors for the numbers, JSON for everything else; no pickle."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor

from lofit_lens.arrays import read_safetensors
from lofit_lens.edits.edit import Edit
from lofit_lens.errors import LofitLensError
from lofit_lens.files import read_json, write_json, write_whole
from lofit_lens.heads import HeadSet
from lofit_lens.hub import local_or_fetched
from lofit_lens.identity import check_same_model
from lofit_lens.provenance import Provenance

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

EDIT_SCHEMA = 1
KINDS = {
    "heads": "edits.on_heads:HeadIntervention",
    "residual": "edits.on_residual:ResidualIntervention",
    "contrast": "analysis.baselines.contrast_edit:ContrastIntervention",
    "output-bias": "analysis.baselines.bitfit:OutputBias",
    "loreft": "analysis.baselines.loreft:LoReFT",
    "adapter": "analysis.baselines.adapters:AdapterEdit",
    "stacked": "analysis.causal.stacking:StackedEdits",
    "patch": "analysis.causal.patching:PatchIntervention",
}
"""Edits that can be kept, by the name in their files: the module in this package, and the class."""

_NAMES = {"heads": "intervention", "residual": "intervention", "adapter": "adapter"}
"""Names of the files of the kinds that had names of their own from the first; all others: `edit`."""

NAMES = ("edit", "intervention", "adapter")
"""Names of the files of all kinds."""

FILES = tuple(f"{name}.{ending}" for ending in ("json", "safetensors") for name in NAMES)
"""The files themselves, descriptions first."""

DESCRIPTION, TENSORS = "intervention.json", "intervention.safetensors"
"""The files of an edit of heads or of the residual stream."""


def save_edit(edit: Edit, folder: str | Path) -> Path:
    """Write an edit as two files, `.safetensors` and `.json`; its provenance goes along.

    They are named `intervention` for edits of heads and of the residual stream, `adapter` for
    adapters, and `edit` for all others.

    Args:
        edit: The edit. Edits that it is made of are kept with it.
        folder: Made if missing; an edit in it is replaced.

    Returns:
        The folder.

    Raises:
        LofitLensError: It is in training, or of a class of one's own.
    """
    folder, tensors = Path(folder), {}
    content = {"schema": EDIT_SCHEMA, **_described(edit, "", tensors)}
    name = _NAMES.get(content["kind"], "edit")
    partial = folder / f".{uuid4().hex}.partial"
    try:
        numbers = write_whole(partial / f"{name}.safetensors", save(tensors))
        told = write_json(partial / f"{name}.json", content, indent=None)
        for known in FILES:  # never numbers beside another edit's description
            (folder / known).unlink(missing_ok=True)
        for file in (numbers, told):
            file.replace(folder / file.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def load_edit(
    folder: str | Path,
    model: TransformerBridge | None = None,
    *,
    revision: str | None = None,
    what: str = "edit",
) -> Edit:
    """Read an edit.

    Args:
        folder: What `save_edit` wrote; or, as text, the name of what `push_to_hub` pushed, such as
            "user/repo". A folder of that name comes first.
        model: The model it is meant for; None reads it without that check.
        revision: Branch, tag or commit on the hub.
        what: What errors call it.

    Raises:
        ModelMismatchError: It was made for another model; the message says what differs.
        LofitLensError: The folder holds no edit, or a damaged one; or it is neither here nor on the
            hub, or the hub cannot be reached.
    """
    files = [[f"{name}.json", f"{name}.safetensors"] for name in NAMES]
    folder = local_or_fetched(folder, files, revision=revision, what=what)
    name = next((name for name in NAMES if (folder / f"{name}.json").is_file()), None)
    if name is None:
        files = " or ".join(f"{name}.json" for name in NAMES)
        raise LofitLensError(f"No {what} in {folder}: there is no {files} in it.")
    content = read_json(folder / f"{name}.json", schema=EDIT_SCHEMA, what=what)
    earlier = "residual" if "layers" in content else "heads"  # before kinds were written
    content.setdefault("kind", "adapter" if name == "adapter" else earlier)
    try:
        edit = _made_of(content, read_safetensors(folder / f"{name}.safetensors"))
    except (OSError, SafetensorError, LofitLensError) as error:
        told = str(error).rstrip(".")
        raise LofitLensError(f"The {what} in {folder} is damaged: {told}.") from error
    if model is not None and edit.provenance is not None:
        check_same_model(model, edit.provenance.fingerprint, f"The {what} in {folder}")
    return edit


def save_intervention(intervention: Edit, folder: str | Path) -> Path:
    """Write an edit: the same as `save_edit`."""
    return save_edit(intervention, folder)


def load_intervention(
    folder: str | Path, model: TransformerBridge | None = None, *, revision: str | None = None
) -> Edit:
    """Read an edit: the same as `load_edit`."""
    return load_edit(folder, model, revision=revision, what="intervention")


def _described(edit: Any, place: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """An edit as JSON; its tensors go into `tensors`, by the names of their places in it."""
    path = f"{type(edit).__module__}:{type(edit).__qualname__}".removeprefix("lofit_lens.")
    kind = next((kind for kind, known in KINDS.items() if known == path), None)
    if kind is None:
        raise LofitLensError(
            f"A {type(edit).__name__} cannot be saved. These can: {', '.join(KINDS)}; of an edit in "
            "training, save what the training returns."
        )
    content: dict[str, Any] = {"kind": kind}
    for name, part in edit.to_parts().items():
        if isinstance(part, Tensor):  # a copy, as edits may share one
            plain = part.detach().cpu().clone(memory_format=torch.contiguous_format)
            tensors[place + name] = plain
        else:
            content[name] = _plain(part, f"{place}{name}.", tensors)
    return content


def _plain(part: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """A part of an edit as JSON."""
    if isinstance(part, tuple):
        return [_plain(value, f"{place}{i}.", tensors) for i, value in enumerate(part)]
    if isinstance(part, HeadSet | Provenance):
        return part.to_json()
    return _described(part, place, tensors) if isinstance(part, Edit) else part


def _made_of(content: Any, tensors: dict[str, Tensor]) -> Any:
    """What `_plain` described."""

    def inside(name: object) -> dict[str, Tensor]:
        return {
            k.removeprefix(f"{name}."): t for k, t in tensors.items() if k.startswith(f"{name}.")
        }

    if isinstance(content, list):
        return tuple(_made_of(part, inside(i)) for i, part in enumerate(content))
    if not isinstance(content, dict) or "kind" not in content:
        return content
    if content["kind"] not in list(KINDS):
        raise LofitLensError(f"there is no kind {content['kind']!r}; known are {', '.join(KINDS)}")
    parts = {name: _made_of(part, inside(name)) for name, part in content.items()}
    return resolve_name(f"lofit_lens.{KINDS[content['kind']]}").from_parts(parts | tensors)


def hash_of(edit: Edit) -> str:
    """SHA-256 over all that an edit is made of, measured scores left out.

    Raises:
        LofitLensError: It is in training, or of a class of one's own.
    """
    tensors: dict[str, Tensor] = {}
    content = _described(edit, "", tensors)
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
