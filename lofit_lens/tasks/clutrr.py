"""CLUTRR as the paper uses it: name the relation of two people in a two-hop story."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from lofit_lens.tasks.exact_match import ExactMatch
from lofit_lens.tasks.generated import most_frequent
from lofit_lens.tasks.sources import read_records
from lofit_lens.tasks.task import Example, Task

N_TRAIN = 300


def clutrr(seed: int = 42, *, data_dir: str | Path | None = None) -> Task:
    """300 training stories drawn by `seed` from a pool of 3,151; 450 for validation and test.

    Exact match on 16 greedy tokens up to the first full stop. The spacing of the prompt is the
    paper code's: two blanks before the second person, one before "'s". The majority class is
    10.2% of the test split.

    Args:
        seed: Seed of the draw; the paper draws with the seed of the run.
        data_dir: Folder that holds `clutrr/`.

    Raises:
        DataError: The files cannot be found or fetched.
    """
    pool, val, test = (
        read_records(f"clutrr/{split}.json", data_dir) for split in ("train", "val", "test")
    )
    drawn = random.Random(seed).sample(pool, N_TRAIN)
    scored_val = tuple(map(_example, val))
    return Task(
        name="clutrr",
        train=tuple(map(_example, drawn)),
        val=scored_val,
        test=tuple(map(_example, test)),
        val_as_test=scored_val,
        objective="sft",
        scoring=ExactMatch(stop="."),
        compat={"paper-code": ExactMatch(stop=".", after="'s\n", after_index=1)},
        floors={"majority class": most_frequent(story["target_text"] for story in test)},
        source={"name": "clutrr", "seed": seed},
    )


def _example(record: dict[str, Any]) -> Example:
    story = record["clean_story"].replace("[", "").replace("]", "")
    first, second = record["query"][1:-1].replace("'", "").split(",")  # `second` keeps its blank
    prompt = (
        f'Read the following story about a family. "{story}" Assume the relations described in the '
        "story are all true. Based on relations between the fictional characters in the story "
        "(assume the relations are all true) and your commonsense knowledge about family "
        f"relationship, how is {second} related to {first}? Answer: {second} is {first} 's\n"
    )
    return Example(record["id"], prompt, (record["target_text"],), group=story)
