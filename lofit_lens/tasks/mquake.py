"""MQuAKE as the paper uses it: answer a multi-hop question under one imagined edit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lofit_lens.tasks.exact_match import ExactMatch
from lofit_lens.tasks.sources import read_records
from lofit_lens.tasks.task import Example, Task


def mquake(*, data_dir: str | Path | None = None) -> Task:
    """134/95/864 cases of MQuAKE-CF-3k with one edit each and 2 to 4 hops.

    Exact match on 16 greedy tokens up to the line break, white space stripped;
    `compat="paper-code"` does not strip, and takes what follows the last "A:". Copying the edited
    object scores 35.9% on the test split; the floor is part of the task.

    Args:
        data_dir: Folder that holds `mquake/`.

    Raises:
        DataError: The files cannot be found or fetched.
    """
    cases = [read_records(f"mquake/{s}.jsonl", data_dir) for s in ("train", "val", "test")]
    train, val, test = (tuple(map(_example, part)) for part in cases)
    copied = sum(
        case["requested_rewrite"][0]["target_new"]["str"] == case["new_answer"]
        for case in cases[-1]
    )
    return Task(
        name="mquake",
        train=train,
        val=val,
        test=test,
        val_as_test=val,
        objective="sft",
        scoring=ExactMatch(),
        compat={"paper-code": ExactMatch(strip=False, after="A:")},
        floors={"copying the edit": copied / len(test)},
        source={"name": "mquake"},
    )


def _example(case: dict[str, Any]) -> Example:
    rewrite = case["requested_rewrite"][0]
    edit = f"{rewrite['prompt'].format(rewrite['subject'])} {rewrite['target_new']['str']}"
    return Example(
        id=str(case["case_id"]),
        prompt=f"Q: Imagine that {edit}. {case['questions'][0]} A:",
        correct=(case["new_answer"], *case["new_answer_alias"]),
        group=edit,
    )
