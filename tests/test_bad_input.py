"""Bad files and bad arguments: refused clearly, before any work, or rightly accepted."""

from __future__ import annotations

import gzip
import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from benchmarks.bad_input import READERS, trial
from lofit_lens.analysis.study.record import Record
from lofit_lens.analysis.tables.latex import escaped
from lofit_lens.documents import MOST_BYTES
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import DataError, LofitLensError
from lofit_lens.head_scores import HeadScores
from lofit_lens.heads import HeadSet
from lofit_lens.scoring.evaluate import evaluate
from lofit_lens.scoring.evaluation import Evaluation
from lofit_lens.stages import tune_heads
from lofit_lens.tasks.exact_match import ExactMatch
from lofit_lens.tasks.from_file import from_rows
from lofit_lens.tasks.label_f1 import LabelF1
from lofit_lens.tasks.multiple_choice import MultipleChoice
from lofit_lens.tasks.task import Task
from lofit_lens.training.config import TuningConfig
from tests import small_study
from tests.helpers import type_checks_off

FOLDERS = ("comparison", "transfer", "sweep", "run")
SHAPE: dict[str, Any] = {"n_layers": 3, "n_heads": 4}
ROWS = [{"q": f"thing {i}", "a": "red", "c": ["red", "blue"]} for i in range(10)]


@pytest.mark.parametrize("name", READERS)
def test_bad_files_are_refused_with_their_names_or_can_be_shown(name: str) -> None:
    with type_checks_off(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, problems = trial(name, 1 if name in FOLDERS else 12, seed=15)
    assert not problems


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[" * 10_000, "64 deep"),
        ("9" * 5000, "integer"),
        ("9" * 30, "64 bits"),
        (r'"\ud800"', "surrogate"),
        ("{", "not JSON"),
        ("[]", r"Expected `object \| null`, got `array` - at `\$\.provenance`"),
    ],
)
def test_json_beyond_the_limits_is_refused(text: str, told: str, tmp_path: Path) -> None:
    path = small_study.run("truth").scores.save(tmp_path / "scores.json")
    path.write_text(path.read_text().replace('"provenance": null', f'"provenance": {text}'))
    with pytest.raises(LofitLensError, match=rf"scores\.json.*{told}"):
        HeadScores.load(path)


def test_the_place_of_a_wrong_value_is_told(tmp_path: Path) -> None:
    path = tmp_path / "record.json.gz"
    record = small_study.comparison().runs[0]
    content = record.to_json()
    content["evaluation"]["records"][3] = 7
    path.write_bytes(gzip.compress(json.dumps(content).encode()))
    with pytest.raises(LofitLensError, match=r"record\.json\.gz.*`\$\.evaluation\.records\[3\]`"):
        Record.load(path)


def test_a_file_that_grows_when_unzipped_is_not_unzipped_whole(tmp_path: Path) -> None:
    path = tmp_path / "bomb.json.gz"
    path.write_bytes(gzip.compress(b" " * (MOST_BYTES + 1), 1))
    with pytest.raises(LofitLensError, match=r"bomb\.json\.gz.*longer than 64 MB"):
        Evaluation.load(path)


def test_the_header_of_an_array_is_not_believed(tmp_path: Path) -> None:
    path = HeadSet([(0, 1)], **SHAPE).save(tmp_path / "heads.npy")
    path.write_bytes(path.read_bytes().replace(b"(1, 2)", b"(9" + b"9" * 9 + b", 2)"))
    with pytest.raises(LofitLensError, match=r"heads\.npy is not a head list"):
        HeadSet.load(path, **SHAPE)


@pytest.mark.parametrize("size", [0, -1, 10**18, 1.5, True])
def test_a_model_that_cannot_be_is_refused(size: Any) -> None:
    with type_checks_off(), pytest.raises(LofitLensError, match="n_layers must be a whole number"):
        HeadSet([(0, 0)], n_layers=size, n_heads=4)


@pytest.mark.parametrize("seed", [2**32, 2**64, -1, 1.5, True, "7"])
def test_a_seed_that_no_generator_takes_is_refused(seed: Any) -> None:
    calls: list[Callable[[], object]] = [
        lambda: TuningConfig(seed=seed),
        lambda: HeadSet.random(1, **SHAPE, seed=seed),
        lambda: from_rows(ROWS, prompt="{q}", answer="a", split_seed=seed),
    ]
    for call in calls:
        with type_checks_off(), pytest.raises(LofitLensError, match="seed must be a whole number"):
            call()


@pytest.mark.parametrize("field", ["epochs", "batch_size", "micro_batch_size"])
@pytest.mark.parametrize("value", [1.5, 2.0, True, 0])
def test_numbers_that_are_not_whole_are_refused(field: str, value: Any) -> None:
    with type_checks_off(), pytest.raises(LofitLensError, match=f"{field} must be a whole number"):
        TuningConfig(**{field: value})


@pytest.mark.parametrize("name", ["stop", "separator"])
def test_nothing_is_cut_at_an_empty_text(name: str) -> None:
    options: dict[str, Any] = {name: ""}
    with pytest.raises(LofitLensError, match=f"{name} must not be empty"):
        from_rows(ROWS, prompt="{q}", answer="a", choices="c", **options)
    with pytest.raises(LofitLensError, match="stop must not be empty"):
        ExactMatch(stop="")
    with pytest.raises(LofitLensError, match="separator must not be empty"):
        LabelF1(separator="")


def test_names_from_files_are_text_in_latex() -> None:
    assert escaped("\\input{/x}\n") == r"\textbackslash{}input\{/x\} "


def colours() -> Task:
    return from_rows(ROWS, prompt="{q} is", answer="a", choices="c")


def test_an_item_without_a_right_answer_and_an_unknown_metric_are_refused() -> None:
    bare = replace(colours().test[0], correct=())
    with pytest.raises(DataError, match="has no right answer"):
        replace(colours(), test=(bare,))
    for metrics in ((), ("MC4",)):
        with pytest.raises(LofitLensError, match="metrics must be one of accuracy, MC1"):
            MultipleChoice(metrics=metrics)
    with pytest.raises(LofitLensError, match="one or more different names"):
        Evaluation("t", "test", (), (), {})


def tuned(model: TransformerBridge) -> HeadIntervention:
    heads = HeadSet([(0, 1)], **SHAPE)
    return tune_heads(model, colours(), heads, TuningConfig(epochs=1), progress=False)


def test_training_needs_gradients_and_takes_them_where_it_can(llama: TransformerBridge) -> None:
    expected = tuned(llama).bias
    with torch.no_grad():
        assert torch.equal(tuned(llama).bias, expected)  # pyright: ignore[reportArgumentType]
    with torch.inference_mode(), pytest.raises(LofitLensError, match="inference_mode"):
        tuned(llama)


def test_numbers_do_not_depend_on_the_default_type(llama: TransformerBridge) -> None:
    edit = tuned(llama)
    scored = evaluate(llama, colours(), edit, progress=False)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(tuned(llama).bias, edit.bias)  # pyright: ignore[reportArgumentType]
        assert evaluate(llama, colours(), edit, progress=False).records == scored.records
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_names_from_files_are_text_in_a_notebook() -> None:
    task = small_study.NASTY
    run, one = small_study.run(task), small_study.scores(task, 7)
    shown = [
        run, run.tuned, small_study.curves(), small_study.matrix(), small_study.comparison(),
        HeadScores(one.scores, method=task), small_study.cards(), small_study.study(Path(task)),
    ]  # fmt: skip
    for part in shown:
        assert "<img" not in part._repr_html_()
        assert "</script" not in part._repr_html_()


def test_a_wrong_array_of_heads_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "heads.npy", np.array([[0.0, 1.0]]))
    with pytest.raises(LofitLensError, match="numbers of type float64"):
        HeadSet.load(tmp_path / "heads.npy", **SHAPE)
