"""Where a model lies: a folder, a GGUF file, or a name on the hub."""

from __future__ import annotations

import os
from pathlib import Path

from lofit_lens.errors import LofitLensError
from lofit_lens.identity import EMBEDDED, EMBEDDED_FOLDER
from lofit_lens.loading.gguf import GGUF, gguf_in

WEIGHTS = ("*.safetensors", "*.bin")


def find_model(name_or_folder: str | Path) -> str:
    """The folder, GGUF file or hub name that `load_model` loads.

    Raises:
        LofitLensError: The text is a path to something that is not a model.
    """
    if name_or_folder == EMBEDDED:
        return str(EMBEDDED_FOLDER)
    here = Path(name_or_folder).expanduser()
    for place in places(here):
        if place.is_file() and place.suffix == GGUF:
            return str(place.resolve())
        if (place / "config.json").is_file():
            return str((None if has_weights(place) else gguf_in(place)) or place.resolve())
        if place.exists():
            found = gguf_in(place)
            if found is None:
                raise LofitLensError(
                    f"{place} is not a model folder: it has no config.json, and no GGUF file."
                )
            return str(found)
    if here.is_absolute() or str(name_or_folder).startswith((".", "~")):
        raise LofitLensError(f"There is no model folder {here}.")
    from transformer_lens.tools.model_registry.registry_io import resolve_model_alias

    name = str(name_or_folder)
    return resolve_model_alias(name) or name  # short names of earlier TransformerLens


def places(here: Path) -> list[Path]:
    """Where a relative name is looked for: here, then in `$LOFIT_LENS_MODELS`."""
    shelf = os.environ.get("LOFIT_LENS_MODELS")
    return [here] + ([Path(shelf) / here] if shelf and not here.is_absolute() else [])


def has_weights(folder: Path) -> bool:
    """Whether a folder in Hugging Face format holds weights too."""
    return any(any(folder.glob(pattern)) for pattern in WEIGHTS)
