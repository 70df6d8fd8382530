"""Samples of lm-evaluation-harness: `samples_*.jsonl`, with the exact prompts of its tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lofit_lens.tasks.columns import as_list, value_at
from lofit_lens.tasks.kinds import SEVERAL_RIGHT, Parts
from lofit_lens.tasks.readers import Row
from lofit_lens.tasks.rows import Cells, as_text, counted, shown

CONTEXT, CONTINUATION = "arg_0", "arg_1"


def sampled_choice(cells: Cells) -> Parts:
    """The continuations of one context; `target` is the place or the text of the right one."""
    context, texts = _candidates(cells)
    right = _right_places(cells, texts)
    if texts and not 0 < len(right) < len(texts):
        target = shown(cells.value("target"))
        cells.problem("target", f"{target}, expected the place or the text of one of {texts}")
    return Parts(
        context,
        [texts[place] for place in right],
        [text for place, text in enumerate(texts) if place not in right],
    )


def sampled_answer(cells: Cells) -> Parts:
    """A context and what was to be generated, or the one continuation that was scored."""
    ((context, argument), *_) = _requests(cells) or [("", None)]
    if isinstance(argument, str):
        return Parts(context, [argument])
    several = as_list(cells.value("target"))
    answers = [as_text(text) for text in several] if several else [cells.exact("target")]
    blank = "" if context[-1:].isspace() else " "
    return Parts(context, [blank + text.lstrip() for text in answers])


def choice_settings(rows: Sequence[Row]) -> dict[str, Any]:
    """Several right answers count under their own metrics, as in `truthfulqa_mc2`."""
    several = any(len(sampled_choice(Cells(row, [])).correct) > 1 for row in rows)
    return {"scoring": replace(SEVERAL_RIGHT, as_lm_eval=True)} if several else {}


def generation_settings(rows: Sequence[Row]) -> dict[str, Any]:
    """Where a generation of the task ends: the first `until`, and its number of tokens."""
    settings = value_at(rows[0].values, f"arguments.gen_args_0.{CONTINUATION}")
    if not isinstance(settings, Mapping):
        return {}
    until = settings.get("until") or []
    ends = [until] if isinstance(until, str) else [text for text in until if text]
    return {"stop": next(iter(ends), None), "max_new_tokens": settings.get("max_gen_toks")}


def of_first_filter(rows: Sequence[Row]) -> list[Row]:
    """The rows of one filter; a task with several writes every item once for each."""
    return [row for row in rows if row.values.get("filter") == rows[0].values.get("filter")]


def _candidates(cells: Cells) -> tuple[str, list[str]]:
    """The context of a row and its continuations."""
    requests = _requests(cells)
    context = requests[0][0] if requests else ""
    # with mutual information, every continuation is asked for again behind an empty context
    asked = [request for request in requests if request[0] or not context]
    if {before for before, _ in asked} - {context}:
        what = "contexts that differ between the candidates, expected one context"
        cells.problem("arguments", what)
    return context, [as_text(text) for _, text in asked]


def _requests(cells: Cells) -> list[tuple[str, Any]]:
    arguments = cells.value("arguments")
    requests = list(arguments.values()) if isinstance(arguments, Mapping) else []
    found = [
        (r[CONTEXT], r.get(CONTINUATION)) for r in requests if value_at(r, CONTEXT) is not None
    ]
    if found and all(isinstance(context, str) and argument for context, argument in found):
        return found
    cells.problem("arguments", f"{shown(arguments)}, expected arg_0 and arg_1 of each request")
    return []


def _right_places(cells: Cells, texts: list[str]) -> list[int]:
    stripped = [text.strip() for text in texts]
    listed = cells.value("doc.mc2_targets.choices")
    if isinstance(listed, list) and [str(text).strip() for text in listed] == stripped:
        labels = cells.value("doc.mc2_targets.labels") or []
        return [place for place, label in enumerate(labels) if label == 1]
    target = cells.value("target")
    targets = as_list(target) or [target]
    names = counted(texts, 0)
    return [
        (names if str(wanted) in names else stripped).index(str(wanted).strip())
        for wanted in targets
        if str(wanted) in names or str(wanted).strip() in stripped
    ]
