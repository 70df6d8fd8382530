"""Pushing an edit or heads to the Hugging Face hub, with a card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from lofit_lens.card import card
from lofit_lens.edits.edit import Edit
from lofit_lens.edits.files import FILES, save_edit
from lofit_lens.errors import LofitLensError
from lofit_lens.head_scores import SCORES
from lofit_lens.heads import HEADS, HeadSet
from lofit_lens.hub import is_hub_name

if TYPE_CHECKING:
    from lofit_lens.head_scores import HeadScores
    from lofit_lens.scoring.evaluation import Evaluation

CARD = "README.md"


def push_to_hub(
    thing: Edit | HeadSet | HeadScores,
    repo: str,
    *,
    evaluations: Mapping[str, Evaluation] | None = None,
    base_model: str | None = None,
    private: bool = False,
) -> str:
    """Push an edit, a head list or head scores to the hub, as safetensors, JSON and a generated card.

    The repository is made if missing. An edit takes the place of the edit in it, and the card that of
    the card. It needs `hf auth login` with a token that may write; `HF_ENDPOINT` names another hub.

    Args:
        thing: What is shared.
        repo: Where, as "user/repo".
        evaluations: Scores for the card, such as `{"zero-shot": before, "tuned": after}`; default:
            those that the edit carries.
        base_model: The model's name on the hub, for the card; default: the one it was learned on, if
            that was loaded from there.
        private: Whether a new repository is private.

    Returns:
        The commit, to be given as `revision`.

    Raises:
        LofitLensError: It cannot be saved, the name is not one of a repository, or the hub cannot be
            reached or refuses.

    Examples:
        >>> commit = push_to_hub(tuned, "user/npi")  # doctest: +SKIP
        >>> edit = load_edit("user/npi", model, revision=commit)  # doctest: +SKIP
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    if not is_hub_name(repo):
        raise LofitLensError(f'A repository on the hub is named as "user/repo", got {repo!r}.')
    files = _files(thing) | {
        CARD: card(thing, repo, evaluations=evaluations, base_model=base_model).encode()
    }
    api = HfApi()
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        there = api.list_repo_files(repo) if isinstance(thing, Edit) else []
        deleted = [CommitOperationDelete(name) for name in FILES if name in {*there} - {*files}]
        added = [CommitOperationAdd(name, content) for name, content in files.items()]
        what = type(thing).__name__
        return api.create_commit(repo, [*deleted, *added], commit_message=f"Push {what}").oid
    except Exception as error:  # whatever the library for requests calls a failed connection
        raise LofitLensError(
            f"{repo!r} could not be pushed to {api.endpoint}: {error}\nIs there a network, and a token "
            "that may write there (`hf auth login`)?"
        ) from error


def _files(thing: Edit | HeadSet | HeadScores) -> dict[str, bytes]:
    """What is written of it, by names."""
    with TemporaryDirectory() as folder:
        place = Path(folder)
        if isinstance(thing, Edit):
            save_edit(thing, place)
        else:
            thing.save(place / (HEADS if isinstance(thing, HeadSet) else SCORES))
        return {path.name: path.read_bytes() for path in sorted(place.iterdir())}
