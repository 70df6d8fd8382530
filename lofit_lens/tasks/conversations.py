"""Conversations in the columns of a file: turns, each of a role with its content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lofit_lens.sequences import common_start
from lofit_lens.tasks.columns import as_list
from lofit_lens.tasks.kinds import Parts
from lofit_lens.tasks.rows import Cells, as_text, shown

Turns = tuple[tuple[str, str], ...]
"""Role and content of each turn."""

_ROLES = {"human": "user", "gpt": "assistant"}
_HUMAN, _ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


def conversation(cells: Cells, column: str) -> Parts:
    """The last turn of the assistant is the answer to all that stands before it."""
    turns = _turns(cells, column)
    last = max((i for i, (role, _) in enumerate(turns) if role == "assistant"), default=0)
    if turns and not last:
        cells.problem(column, "expected a turn of the user and one of the assistant after it")
    return _spoken(turns[:last], [content for _, content in turns[last : last + 1]])


def completion(cells: Cells) -> Parts:
    """Columns `prompt` and `completion`, each text or turns; `label` says if one is not wanted."""
    if cells.value("label") is False:
        cells.problem("label", "False: a completion that is not wanted, expected wanted ones alone")
    if not _holds_turns(cells, "prompt") and not _holds_turns(cells, "completion"):
        return Parts(cells.exact("prompt"), [cells.exact("completion")])
    in_turns = _holds_turns(cells, "completion")
    turns = _turns(cells, "completion") if in_turns else (("assistant", cells.exact("completion")),)
    return _spoken(_before(cells, "prompt"), [_one_turn(cells, "completion", turns)])


def preference(cells: Cells) -> Parts:
    """Columns `chosen` and `rejected`, each text or turns.

    The prompt is a column of that name (or `question`, with `system` before it), or else what both
    begin with.
    """
    column = next((c for c in ("prompt", "question") if cells.value(c) is not None), None)
    if _holds_turns(cells, "chosen"):
        chosen, rejected = _turns(cells, "chosen"), _turns(cells, "rejected")
        start = common_start((chosen[:-1], rejected[:-1]))
        shared, before = chosen[:start], _before(cells, column) if column else ()
        if shared and column and _holds_turns(cells, column) and shared[: len(before)] != before:
            shared = before + shared
        before = shared or before
        right = _one_turn(cells, "chosen", chosen[start:])
        wrong = _one_turn(cells, "rejected", rejected[start:])
        parts = _spoken(before, [right], [wrong])
    else:
        right, wrong = cells.exact("chosen"), cells.exact("rejected")
        start = 0 if column else _parting(right, wrong)
        prompt = cells.exact(column) if column else right[:start]
        right, wrong = right[start:], wrong[start:]
        parts = Parts(prompt, [right], [wrong])
        if cells.value("system"):
            turns = (("system", cells.text("system")), ("user", prompt))
            parts = _spoken(turns, [right], [wrong])
    if right and right == wrong:
        cells.problem("rejected", "the same answer as 'chosen', expected another one")
    return parts


def transcript(turns: Turns) -> str:
    """Turns as one text, for a model without a chat template.

    A system turn stands in front as a paragraph. A single turn of the user is its content alone;
    in more turns the roles stand before the contents, and the text ends where the assistant goes on.
    """
    system = [content for role, content in turns if role == "system"]
    spoken = [turn for turn in turns if turn[0] != "system"]
    if [role for role, _ in spoken] == ["user"]:
        return "\n\n".join([*system, spoken[0][1]])
    lines = [f"{role.capitalize()}: {content}" for role, content in spoken]
    return "\n\n".join([*system, "\n".join([*lines, "Assistant:"])])


def _spoken(before: Turns, correct: Sequence[str], incorrect: Sequence[str] = ()) -> Parts:
    return Parts(transcript(before), correct, incorrect, before)


def _holds_turns(cells: Cells, column: str) -> bool:
    turns = as_list(cells.value(column))
    return bool(turns) and all(isinstance(turn, Mapping) for turn in turns or ())


def _before(cells: Cells, column: str) -> Turns:
    """A prompt as turns; text is a turn of the user."""
    if _holds_turns(cells, column):
        return _turns(cells, column)
    system = (("system", cells.text("system")),) if cells.value("system") else ()
    return (*system, ("user", cells.text(column)))


def _turns(cells: Cells, column: str) -> Turns:
    """The turns of a cell; ShareGPT's `from` and `value` are read as `role` and `content`."""
    turns = [_turn(turn) for turn in as_list(cells.value(column)) or ()]
    turns = [turn for turn in turns if turn != ("system", "")]
    if turns and all(role and content for role, content in turns):
        return tuple(turns)
    value = shown(cells.value(column))
    cells.problem(column, f'{value}, expected turns such as {{"role": "user", "content": "Hello"}}')
    return ()


def _turn(turn: Any) -> tuple[str, str]:
    if not isinstance(turn, Mapping):
        return "", ""
    role = as_text(turn.get("role", turn.get("from")))
    content = turn.get("content", turn.get("value"))
    if isinstance(content, list):  # parts, of which only texts can be read
        texts = [as_text(part.get("text")) if isinstance(part, Mapping) else "" for part in content]
        content = "\n".join(texts) if all(texts) else None
    return _ROLES.get(role, role), as_text(content)


def _one_turn(cells: Cells, column: str, turns: Turns) -> str:
    if [role for role, _ in turns] == ["assistant"]:
        return turns[0][1]
    if turns:
        roles = ", ".join(role for role, _ in turns)
        cells.problem(
            column, f"turns of {roles} behind the prompt, expected one turn of the assistant"
        )
    return ""


def _parting(chosen: str, rejected: str) -> int:
    """Where two texts part: after the last common turn of the assistant's name, or a whole word."""
    common = chosen[: common_start((chosen, rejected))]
    if common.startswith(_HUMAN) and _ASSISTANT in common:
        return common.rindex(_ASSISTANT) + len(_ASSISTANT)
    return max((i for i, letter in enumerate(common) if letter.isspace()), default=0)
