"""The five recipes of CONTRIBUTING.md, performed on a copy of the code and used."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Place:
    """A row in a table: the file, how the table begins, the row, and what the file imports for it."""

    file: str
    table: str
    row: str
    name: str = ""


ADDED = {
    "A way to choose heads": ("output_norm", "analysis/baselines"),
    "A method": ("value_bias", "analysis/baselines"),
    "A scoring": ("first_letter", "lofit_lens/tasks"),
    "A task": ("small_kinship", "lofit_lens/tasks"),
    "A kind of experiment": ("dose", "analysis/kinds"),
}
"""The new file of each recipe, and where it goes."""

PLACES = {
    "A way to choose heads": [
        Place(
            "analysis/methods/selectors.py", "SELECTORS: Mapping[str, Selector] = {",
            '"output-norm": Selector(lambda *_: by_output_norm()),', "by_output_norm",
        ),
    ],
    "A method": [
        Place(
            "analysis/methods/whole.py", "WHOLE: Mapping[str, Whole] = {",
            '"value-bias": _rival("value-bias", train_value_bias, rate=1e-2, embedded=1e-1),',
            "train_value_bias",
        ),
        Place(
            "lofit_lens/edits/files.py", "KINDS = {",
            '"value-bias": "analysis.baselines.value_bias:ValueBias",',
        ),
    ],
    "A scoring": [
        Place(
            "lofit_lens/tasks/kinds.py", "SCORINGS: Mapping[str, Callable[[], Scoring]] = {",
            '"first-letter": FirstLetter,', "FirstLetter",
        ),
    ],
    "A task": [
        Place(
            "lofit_lens/tasks/load.py", "MAKERS: Mapping[str, Callable[..., Task]] = {",
            '"small-kinship": small_kinship,', "small_kinship",
        ),
    ],
    "A kind of experiment": [
        Place("analysis/kinds/table.py", "KINDS: tuple[Row, ...] = (", "DOSE,", "DOSE"),
    ],
}  # fmt: skip


def named_in_the_text() -> dict[str, tuple[set[str], set[str]]]:
    """The folders of new files and the files of tables of each recipe, as CONTRIBUTING.md has them."""
    _, text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Five recipes")
    found = {}
    for title, recipe in re.findall(r"\n\* \*\*(.+?)\*\*(.+?)(?=\n\*|\n\n)", text, re.DOTALL):
        paths = re.findall(r"`((?:analysis|lofit_lens)/[\w/.]*)`", recipe)
        rooms = {path.removesuffix("/") for path in paths if path.endswith("/")}
        found[title] = rooms, {path for path in paths if path.endswith(".py")}
    return found


def perform(recipe: str, code: Path) -> None:
    """Do what a recipe says: copy the new file, and insert the rows as text."""
    module, room = ADDED[recipe]
    shutil.copy(RECIPES / f"{module}.py", code / room)
    package = room.replace("/", ".").removeprefix("lofit_lens.")
    for place in PLACES[recipe]:
        text = (code / place.file).read_text(encoding="utf-8")
        line = f"from lofit_lens.{package}.{module} import {place.name}\n" if place.name else ""
        for before, after in (
            ("from __future__ import annotations\n", line),
            (place.table, f"\n    {place.row}"),
        ):
            assert text.count(before) == 1, (place.file, before)
            text = text.replace(before, before + after)
        (code / place.file).write_text(text, encoding="utf-8")


def state(code: Path) -> dict[str, str]:
    """The hash of every file, by its path."""
    return {
        path.relative_to(code).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for room in ("lofit_lens", "analysis")
        for path in (code / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@dataclass(frozen=True)
class Performed:
    """What the recipes touched, each by itself, and what using all they added gave."""

    code: Path
    new: dict[str, set[str]]
    changed: dict[str, set[str]]
    told: dict[str, Any]


@pytest.fixture(scope="module")
def performed(tmp_path_factory: pytest.TempPathFactory) -> Performed:
    code = tmp_path_factory.mktemp("copy")
    for name in ("lofit_lens", "analysis"):  # the link between them with it
        shutil.copytree(ROOT / name, code / name, symlinks=True)
    new, changed = {}, {}
    for recipe in ADDED:
        before = state(code)
        perform(recipe, code)
        after = state(code)
        assert before.keys() <= after.keys()
        new[recipe] = after.keys() - before.keys()
        changed[recipe] = {path for path in before if before[path] != after[path]}
    (code / "out").mkdir()
    done = subprocess.run(
        [sys.executable, str(RECIPES / "use.py"), str(code / "out")],
        cwd=code, env={**os.environ, "PYTHONPATH": str(code), "PYTHONWARNINGS": "ignore"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Performed(code, new, changed, json.loads(done.stdout.splitlines()[-1]))


def test_the_recipes_are_those_of_the_text() -> None:
    assert named_in_the_text().keys() == ADDED.keys() == PLACES.keys()


@pytest.mark.parametrize("recipe", ADDED)
def test_a_recipe_touches_the_places_that_it_names_and_no_others(
    recipe: str, performed: Performed
) -> None:
    rooms, tables = named_in_the_text()[recipe]
    (new,) = performed.new[recipe]
    assert {str(Path(new).parent)} == rooms
    assert performed.changed[recipe] == tables


def test_what_was_used_is_the_copy(performed: Performed) -> None:
    assert performed.told["from"] == str(performed.code / "lofit_lens" / "__init__.py")


def test_a_new_selector_gives_its_heads_to_select_and_to_compare(performed: Performed) -> None:
    told = performed.told["selector"]
    assert told["compared"] == told["selected"] == told["best"]
    assert len(told["best"]) == 3


def test_a_new_method_is_compared_resumed_kept_and_loaded(performed: Performed) -> None:
    told = performed.told["method"]
    assert told["new"] == ["zero-shot", "output-norm/bias", "value-bias"]
    assert told["new when resumed"] == []
    assert told["same when resumed"]
    assert told["read back"] == ["zero-shot", "output-norm/bias", "value-bias"]
    assert told["parameters"] == 4 * 16 * 8
    assert "value_bias.ValueBias" in told["edit"]
    assert told["scores of the loaded"] == told["scores"]


def test_a_bias_on_values_is_its_projection_at_the_output_as_attention_sums_to_one(
    performed: Performed,
) -> None:
    told = performed.told["method"]
    assert told["beside the projected bias"] < 1e-4
    assert told["beside none"] > 0.1


def test_a_new_scoring_is_known_to_files_and_to_evaluate(performed: Performed) -> None:
    told = performed.told["scoring"]
    expected = [
        float(generated.strip()[:1].lower() == right.strip()[:1].lower())
        for generated, right in told["texts"]
    ]
    assert told["scores"] == expected
    assert told["by command"] == pytest.approx(sum(expected) / len(expected))


def test_a_new_task_is_loaded_by_its_name_and_again_from_its_source(performed: Performed) -> None:
    assert performed.told["task"] == {"items": [8, 8, 12], "again": True}


def test_a_new_kind_resumes_and_is_read_drawn_and_reported(performed: Performed) -> None:
    told = performed.told["kind"]
    assert "dose responses: 1" in told.pop("repr")
    values = told.pop("values")
    assert values[0] == told.pop("zero-shot")
    assert values[2] == told.pop("value-bias")
    assert told == {
        "strengths": [0.0, 0.5, 1.0, 2.0],
        "new when resumed": 0,
        "read back": True,
        "figures": ["dose-doses"],
        "section": True,
        "sentence": True,
        "items": True,
        "drawn": ["dose-doses.html"],
        "further": False,
    }
