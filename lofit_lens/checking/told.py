"""A check of a model for people to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lofit_lens.checking.memory import TRAINING_BATCH
from lofit_lens.grid import headless

if TYPE_CHECKING:
    from lofit_lens.checking.model_check import ModelCheck, TokenizerCheck


def told(check: ModelCheck) -> list[tuple[str, str]]:
    """Titles and texts, in reading order."""
    shape, memory = check.shape, check.memory
    heads = f"{shape.heads}, {shape.n_key_value_heads} key/value heads, z {_widths(shape.z_widths)}"

    def need(n: int) -> str:
        return _size(n) if n <= check.free else f"{_size(n)}, more than is free,"

    scoring = f"{check.batch_size} texts of {check.length} tokens"
    training = f"{TRAINING_BATCH} texts of {check.length} tokens"
    rows = [
        ("model", check.model),
        ("family", f"{shape.architecture}, known to TransformerLens"),
        ("heads", f"{shape.heads.total} in {heads}"),
        ("parameters", f"{shape.sizes.parameters:,}, context {shape.n_ctx:,} tokens"),
        ("device", f"{check.device}, {check.dtype}, {_size(check.free)} free"),
        ("memory, weights", need(memory.weights)),
        ("memory, scoring", f"{need(memory.scoring)} for {scoring}"),
        ("memory, stages 1 and 2", f"{need(memory.training)} for {training} in a step"),
        *_tokenizer(check.tokenizer),
        ("fast paths", _fast(check)),
        *_keeping(check),
    ]
    if check.not_loaded:
        rows.append(("not loaded", f"{check.not_loaded}; all this is from the configuration alone"))
    return rows


def _widths(widths: Sequence[int]) -> str:
    """Width of z, as "64 wide" or "24 wide (layers 0, 1), 40 wide (layers 2, 3)"."""
    different = sorted({width for width in widths if width})
    if len(different) == 1:
        return f"{different[0]} wide"
    places = {w: headless([i for i, width in enumerate(widths) if width == w]) for w in different}
    return ", ".join(f"{w} wide ({p.removeprefix('no heads in ')})" for w, p in places.items())


def _tokenizer(found: TokenizerCheck | None) -> list[tuple[str, str]]:
    if found is None:
        return [("tokenizer", "none: hooks on token ids work, whatever needs text is refused")]
    lead = f"puts {' '.join(found.lead)} in front" if found.lead else "puts nothing in front"
    ends = f", a generation ends with {' or '.join(found.ends)}" if found.ends else ""
    template = f"yes (SHA-256 {found.template}…)" if found.template else "none"
    return [
        ("tokenizer", f"{lead}; BOS {found.bos or 'none'}, EOS {found.eos or 'none'}{ends}"),
        ("chat template", template),
    ]


def _fast(check: ModelCheck) -> str:
    if not check.loaded:
        return "not tried"
    if check.direct is None:
        return "tried; this model gives something else by them, so the plain path runs"
    shared = "shared beginnings of texts" if check.shares else "not: shared beginnings of texts"
    return f"tried; same numbers by: modules of Hugging Face ({check.direct} attention), {shared}"


def _keeping(check: ModelCheck) -> list[tuple[str, str]]:
    rows = [("fold in memory", "yes, for edits of scope all and weights that are not quantised")]
    if check.shape.exported_as:
        same = check.shape.exported_as == check.shape.architecture
        rows.append(("export", f"yes, as {'itself' if same else check.shape.exported_as}"))
        first = "bias of the export"
        for server, reading in check.servers.items():
            rows.append((first, f"{server}: {reading}"))
            first = ""
    else:
        why_not = check.shape.not_exported
        rows.append(("export", f"no: {why_not}" if why_not else "not found out; it is tried"))
    return rows


def _size(n: int) -> str:
    """Bytes, as "1.2 GiB"."""
    return f"{n / 2**30:.1f} GiB" if n >= 2**30 else f"{n / 2**20:.0f} MiB"
