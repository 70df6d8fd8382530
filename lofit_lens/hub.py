"""Files on the Hugging Face hub: one short look, then the named files and no others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lofit_lens.documents import MOST_BYTES
from lofit_lens.errors import LofitLensError

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

PATIENCE = 5.0
"""Seconds to wait for an answer of the hub."""

MOST_NUMBERS = 2 * 2**30
"""Bytes of a `.safetensors` file that is fetched; an adapter of a large model has some hundred MB."""

_FILES = (".json", ".npy", ".csv", ".tsv", ".txt", ".gz")


class Unreachable(LofitLensError):
    """The hub gives no answer."""


def is_hub_name(text: object) -> bool:
    """Whether a text can name a repository, as "user/repo". A `Path` is always a local one."""
    if not isinstance(text, str) or text.count("/") != 1 or text.endswith(_FILES):
        return False
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return True


def local_or_fetched(
    place: str | Path, choices: Sequence[Sequence[str]], *, revision: str | None, what: str
) -> Path:
    """The folder in which files lie: one on this machine, or of the cache of the hub.

    What lies on this machine comes first. Without a network the cache is read.

    Args:
        place: A path, or the name of a repository, as "user/repo".
        choices: Names of files that belong together; the first of these that is there is fetched, and
            nothing else of the repository.
        revision: Branch, tag or commit on the hub.
        what: What errors call it.

    Raises:
        LofitLensError: There is no such repository or not for this user, it has none of the files, one
            of them is too large, or the hub cannot be reached and they are not in the cache; or a
            revision is given of something on this machine.
    """
    from huggingface_hub import constants, errors

    here = Path(place).expanduser()
    if here.exists() or not is_hub_name(place):
        if revision is not None:
            raise LofitLensError(
                f"revision={revision!r} is of the hub, but {place} is taken as a place on this machine: "
                'what lies here comes first, and a name on the hub is as "user/repo".'
            )
        return here
    name = str(place)
    missing = f"There is no {what} {name!r}: nothing lies at {here.absolute()}"
    try:
        for files in choices:
            try:
                return _fetched(name, files, revision, missing)
            except errors.EntryNotFoundError:
                continue
    except Unreachable as error:
        cached = _cached(name, choices, revision)
        if cached is not None:
            return cached
        raise LofitLensError(
            f"{missing}, it is not in the cache of the hub ({constants.HF_HUB_CACHE}), and it cannot be "
            f"fetched: {error}. Give a path, or fetch it on a machine with a network: hf download {name}."
        ) from None
    wanted = " or ".join(files[0] for files in choices)
    raise LofitLensError(
        f"{name!r} on {constants.ENDPOINT} holds no {what}: there is no {wanted} in it."
    )


def kept_file(place: str | Path, name: str, *, revision: str | None, what: str) -> Path:
    """A file on this machine, or the one of this name in a repository; see `local_or_fetched`."""
    found = local_or_fetched(place, [[name]], revision=revision, what=what)
    return found / name if is_hub_name(place) and found.is_dir() else found


def ask(
    repository: str, file: str, revision: str | None, *, name: str, missing: str
) -> HfFileMetadata:
    """Look a file up: its size, and the commit it is from.

    Args:
        repository: As "user/repo".
        file: Its name there.
        revision: Branch, tag or commit.
        name: What errors call the repository.
        missing: What to say where there is none of this name, up to "and none of this name on …".

    Raises:
        EntryNotFoundError: The repository has no such file.
        Unreachable: The hub gives no answer.
        LofitLensError: There is no such repository or revision, or not for this user.
    """
    from huggingface_hub import constants, errors, get_hf_file_metadata, hf_hub_url

    hub = constants.ENDPOINT
    if constants.is_offline_mode():
        raise Unreachable("HF_HUB_OFFLINE is set")
    try:
        url = hf_hub_url(repository, file, revision=revision)
        return get_hf_file_metadata(url, timeout=PATIENCE)
    except errors.GatedRepoError:
        raise LofitLensError(
            f"{name!r} is gated on {hub}: ask for access on its page, then `hf auth login`."
        ) from None
    except errors.RevisionNotFoundError:
        raise LofitLensError(f"{name!r} has no revision {revision!r} on {hub}.") from None
    except errors.EntryNotFoundError:
        raise
    except errors.RepositoryNotFoundError:
        raise LofitLensError(
            f"{missing}, and none of this name on {hub}. If it is private, `hf auth login` first."
        ) from None
    except Exception as error:  # whatever the library for requests calls a failed connection
        raise Unreachable(f"{hub} cannot be reached ({error})") from None


def _fetched(name: str, files: Sequence[str], revision: str | None, missing: str) -> Path:
    """The folder of the cache with some files, all of one commit."""
    from huggingface_hub import constants, hf_hub_download

    for file in files:
        found = ask(name, file, revision, name=name, missing=missing)
        most = MOST_NUMBERS if file.endswith(".safetensors") else MOST_BYTES
        if found.size is None or found.size > most:
            size = "of unknown size" if found.size is None else f"{found.size / 2**20:,.0f} MB long"
            raise LofitLensError(
                f"{file} of {name!r} is {size}; at most {most // 2**20:,} MB are fetched. "
                "Nothing was."
            )
    first, *others = files
    try:
        folder = Path(hf_hub_download(name, first, revision=revision)).parent
        for file in others:
            hf_hub_download(name, file, revision=folder.name)
    except Exception as error:  # likewise
        raise Unreachable(f"{constants.ENDPOINT} broke off ({error})") from None
    return folder


def _cached(name: str, choices: Sequence[Sequence[str]], revision: str | None) -> Path | None:
    """The folder of the cache with all files of one choice, if it has them."""
    from huggingface_hub import try_to_load_from_cache

    for files in choices:
        paths = [try_to_load_from_cache(name, file, revision=revision) for file in files]
        if all(isinstance(path, str) for path in paths):
            return Path(str(paths[0])).parent
    return None
