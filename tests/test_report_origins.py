"""What the page tells of the model, the settings and the commands behind it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lofit_lens.analysis.reading.study import Study
from lofit_lens.analysis.reporting.origins import model_of
from lofit_lens.analysis.reporting.page import page
from tests.small_study import study
from tests.test_report import Page

MARK = {"name": "tiny", "architecture": "Llama", "n_layers": 3, "n_heads": 4, "weights": 16 * "a"}
STAGE = {"fingerprint": MARK, "task": "kin", "versions": {"torch": "2"}}
TOLD = {
    "demo": {"stages": {"kin": STAGE}, "size": {"seeds": [7]}},
    "lofit": {"loaded": {"model": "embedded"}, "stages": {"selection on kin": STAGE}},
    "tune": {"loaded": {"model": "models/tiny"}, "stages": {"tuning on kin": STAGE}},
}


@pytest.mark.parametrize("told", TOLD.values(), ids=TOLD)
def test_the_model_is_named_by_its_fingerprint(told: dict[str, Any]) -> None:
    assert model_of(told) == "tiny (Llama, 3 layers x 4 heads, weights aaaaaaaaaaaa)"


def test_without_a_fingerprint_the_model_is_what_was_loaded_or_its_weights() -> None:
    transfer = {"loaded": {"model": "meta-llama/Llama-2-7b-hf", "revision": "main"}}
    assert model_of(transfer | {"tasks": {"kin": {"source": {"model": "no"}}}}) == (
        "meta-llama/Llama-2-7b-hf"
    )
    assert model_of({"methods": ["lofit"], "model": 20 * "b"}) == "weights bbbbbbbbbbbb"
    assert model_of({"kind": "head cards"}) == ""


def test_what_stages_have_in_common_is_told_once() -> None:
    stages = {"kin": STAGE, "truth": STAGE | {"task": "truth"}}
    found = Page(page(Study(Path("s"), provenance={"s": {"kind": "demo", "stages": stages}})))
    readable, raw = found.text.split("All of it as JSON")
    assert readable.count("fingerprint, weights") == 1
    assert raw.count("fingerprint") == 2
    assert "truth, task" in readable


def test_commands_are_those_that_were_typed() -> None:
    whole = Page(page(study()))
    typed = "lofit-lens demo --out 'a study & more' --seeds 2"
    assert typed in whole.text.split("How to reproduce and cite")[-1]
    assert "No command is recorded" not in whole.text
    told = {"by hand": {"kind": "lofit", "loaded": {"model": "embedded"}}}
    unknown = Page(page(Study(Path("s"), provenance=told))).text
    assert "No command is recorded for by hand" in unknown
    assert "lofit-lens lofit" not in unknown
    assert "LoFiT Lens authors" in unknown and "arXiv:2406.01563" in unknown


def test_an_unfinished_run_is_named() -> None:
    named = Page(page(replace(study(), left_out={"last night": "The demo did not finish."}))).text
    assert "last night: The demo did not finish." in named
