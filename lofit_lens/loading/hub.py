"""Names on the Hugging Face hub: one short look before libraries try for long."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from lofit_lens.errors import LofitLensError
from lofit_lens.hub import Unreachable, ask
from lofit_lens.loading.find import places
from lofit_lens.loading.gguf import check_gguf, split_source


@contextmanager
def on_hub(name: str, revision: str | None) -> Iterator[str | None]:
    """Look a name up, so that what is inside may take it for granted; what lies here passes.

    Where the hub cannot be reached but the model is in the cache, nothing inside tries the network.

    Yields:
        The commit, so that all files come from one; None if it is not known.

    Args:
        name: As `find_model` gave it.
        revision: Branch, tag or commit.

    Raises:
        LofitLensError: There is no such model or not for this user, the hub cannot be reached and
            the model is not in the cache, or it is a GGUF file that cannot be read.
    """
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError

    check_gguf(name)
    if Path(name).exists():
        yield None
        return
    repository, gguf = split_source(name)
    file = gguf.get("gguf_file", "config.json")
    missing = f"There is no model {name!r}: no folder {_looked_for(name)}"
    try:
        cached = try_to_load_from_cache(repository, file, revision=revision)
    except HFValidationError:
        raise LofitLensError(f"{missing}.") from None
    why_not, commit = None, None
    try:
        commit = ask(repository, file, revision, name=name, missing=missing).commit_hash
    except EntryNotFoundError:
        raise LofitLensError(
            f"{name!r} on {constants.ENDPOINT} has no file {file}, so it is no model."
        ) from None
    except Unreachable as error:
        why_not = str(error)
    if why_not and isinstance(cached, str):
        commit = Path(cached).parent.name
    elif why_not:
        raise LofitLensError(
            f"There is no model {name!r} here: no folder {_looked_for(name)}, it is not in the cache "
            f"of the hub ({constants.HF_HUB_CACHE}), and it cannot be fetched: {why_not}. Give a "
            "folder in Hugging Face format or a GGUF file, or fetch it on a machine with a network: "
            f"hf download {repository}."
        )
    with patch.object(constants, "HF_HUB_OFFLINE", bool(why_not)):
        yield commit


def folder_of(source: str, revision: str | None) -> Path | None:
    """Where the files of a model lie on this machine, its folder in the cache included, if it has one."""
    from huggingface_hub import try_to_load_from_cache

    if (here := Path(source)).exists():
        return here if here.is_dir() else None
    repository, gguf = split_source(source)
    found = None if gguf else try_to_load_from_cache(repository, "config.json", revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def _looked_for(name: str) -> str:
    return " or ".join(str(place.absolute()) for place in places(Path(name)))
