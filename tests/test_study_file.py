"""Study files: read, refused with their lines, and planned without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lofit_lens.analysis.plan import stand_ins
from lofit_lens.analysis.plan.lines import line_at, lines_of
from lofit_lens.analysis.plan.plan import plan_study
from lofit_lens.analysis.plan.shapes import KNOWN
from lofit_lens.analysis.plan.study_file import read_study
from lofit_lens.errors import LofitLensError

STUDIES = sorted((Path(__file__).parents[1] / "studies").glob("*.toml"))
LARGEST = next(path for path in STUDIES if path.stem == "small-open-models")

SOUND = """name = "sound"
[[models]]
model = "embedded"
[[tasks]]
task = "embedded:truth"
[settings]
k = 4
[[experiments]]
kind = "compare"
methods = ["lofit", "random-heads"]
seeds = [1, 2]
"""


def told(tmp_path: Path, text: str) -> list[str]:
    """The lines of the message about a study file."""
    file = tmp_path / "study.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(LofitLensError) as caught:
        plan_study(file)
    return str(caught.value).splitlines()[1:]


def test_the_line_of_a_key_is_found_in_tables_lists_of_tables_and_quoted_names() -> None:
    text = '[a."x:y"]\nk = 1\n[[m]] # k = 2\nn = "]"\n[[m]]\n"q r" = [\n 1,\n]\n'
    lines = lines_of(text)
    assert lines[("a", "x:y", "k")] == 2
    assert lines[("m", 0, "n")] == 4
    assert lines[("m", 1, "q r")] == 6
    assert line_at(lines, ("m", 1, "missing")) == 5
    assert line_at(lines, ("missing",)) == 1


@pytest.mark.parametrize(
    ("old", "new", "line", "expected"),
    [
        ("k = 4", "kk = 4", 7, "did you mean k?"),
        ("k = 4", "k = 4\nfraction = 0.1", 6, "k and fraction"),
        ("k = 4", 'k = "four"', 7, "expected a whole number, got text"),
        ("k = 4", "k = 100000", 8, "100000"),
        ("k = 4", 'k = 4\n[settings."embedded:trut"]\nl1 = 1.0', 8, "did you mean embedded:truth?"),
        ("k = 4", "tuning_lr = -1.0", 6, "learning_rate must be"),
        ("k = 4", "rates = { lorra = 0.1, loara = 0.1 }", 7, "did you mean lora?"),
        ("[settings]", '[[tasks]]\ntask = "embedded:truth"\n[settings]', 6, "twice"),
        ("[settings]", '[[tasks]]\ntask = "truthfullqa"\n[settings]', 7, "did you mean truthfulqa?"),
        ('"lofit",', '"lofti",', 10, "did you mean lofit?"),
        ('"lofit",', '"lora@last",', 10, "token scope"),
        ("seeds = [1, 2]", "seeds = [1, 1]", 11, "Seeds must differ"),
        ("seeds = [1, 2]", 'base = "iti"', 11, "to compare with"),
        ("seeds = [1, 2]", 'tasks = ["mquake"]', 11, "task 'mquake'"),
        ('kind = "compare"', 'kind = "compares"', 9, "did you mean compare?"),
        ('"compare"\nmethods = ["lofit"', '"sweep-heads"\nfractions = [0.1]\nmethods = ["ia3"', 8, "sweep"),
        ('name = "sound"', "", 1, "name is missing"),
        ('model = "embedded"', 'model = "embedded"\npreset = "lama2-7b"', 4, "llama2-7b"),
        ('model = "embedded"', 'model = "no-such/model"', 3, "hf download"),
        ("seeds = [1, 2]", '[[experiments]]\nkind = "causal"', 11, "no lofit experiment"),
        ("seeds = [1, 2]", '[[experiments]]\nkind = "compare"\nmethods = ["iti"]', 11, "twice"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_line_and_the_nearest_name(
    tmp_path: Path, old: str, new: str, line: int, expected: str
) -> None:
    lines = told(tmp_path, SOUND.replace(old, new))
    assert any(row.startswith(f"  line {line}: ") and expected in row for row in lines), lines


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = SOUND.replace("k = 4", "k = 4\nfraction = 0.1\nepoch = 3").replace("lofit", "lofti")
    lines = told(tmp_path, text + 'bass = "lofit"\n')
    assert [row.split(":")[0].strip() for row in lines] == [
        "line 6",
        "line 9",
        "line 12",
        "line 14",
    ]


def test_what_is_no_toml_or_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text("name = ", encoding="utf-8")
    for name in ("study.toml", "other.toml"):
        with pytest.raises(LofitLensError, match="study file"):
            read_study(tmp_path / name)


def test_a_plan_counts_cells_and_what_is_shared_once(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text(SOUND, encoding="utf-8")
    (part,) = plan_study(file).parts
    assert part.cost.cells == 1 + 2 * 2
    assert part.cost.trainings == 2 + 2 * 2  # stage 1 of each seed, and a tuning of each cell
    assert part.hours > 0 and part.memory > 0
    assert plan_study(file, tflops=0.1).hours == pytest.approx(part.hours / 2)
    with pytest.raises(LofitLensError, match="tflops"):
        plan_study(file, tflops=0.0)


def test_the_largest_shipped_study_is_sound() -> None:
    assert read_study(LARGEST).name


@pytest.mark.parametrize(
    "study", [path for path in STUDIES if path != LARGEST], ids=lambda path: path.stem
)
def test_every_shipped_study_can_be_planned_without_its_models_and_data(
    study: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("LOFIT_LENS_DATA", raising=False)
    monkeypatch.setattr("lofit_lens.tasks.sources.pooch.os_cache", lambda _: tmp_path)
    plan = plan_study(study)
    assert plan.hours > 0
    assert {part.part.model.name for part in plan.parts} == {m.name for m in plan.study.models}
    assert plan.study.name in repr(plan)


@pytest.mark.real
def test_stand_ins_have_the_sizes_of_the_real_tasks(data_dir: Path) -> None:
    from lofit_lens.tasks.load import load_tasks

    for name in ("truthfulqa", "mquake", "clutrr", "arc-challenge", "boolq"):
        real, made = load_tasks(name, data_dir=data_dir)[0], stand_ins._stand_in(name, {})
        assert (len(real.train), len(real.val), len(real.test)) == stand_ins.KNOWN[name].items
        assert real.objective == made.objective
        assert real.scoring.generates == made.scoring.generates


CONFIGS: dict[str, dict[str, Any]] = {
    "llama-2-7b": {"model_type": "llama", "tie_word_embeddings": False},
    "llama-2-13b": {"model_type": "llama", "tie_word_embeddings": False},
    "gemma-7b": {"model_type": "gemma"},
    "smollm2-135m": {"model_type": "llama", "tie_word_embeddings": True},
    "gemma-3-270m": {"model_type": "gemma3_text"},
    "qwen3-0.6b": {"model_type": "qwen3", "tie_word_embeddings": True},
    "llama-3.2-1b": {"model_type": "llama", "tie_word_embeddings": True},
}


@pytest.mark.parametrize("name", KNOWN)
def test_the_parameters_of_a_known_shape_are_those_of_a_model_of_that_shape(name: str) -> None:
    shape = KNOWN[name]
    sizes, heads = shape.sizes, shape.heads
    d_head = sizes.d_heads // heads.n_heads
    config = AutoConfig.for_model(
        **CONFIGS[name], num_hidden_layers=sizes.n_layers, hidden_size=sizes.d_model,
        num_attention_heads=heads.n_heads, num_key_value_heads=sizes.d_keys // d_head,
        head_dim=d_head, intermediate_size=sizes.d_mlp, vocab_size=sizes.d_vocab,
    )  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert sum(p.numel() for p in model.parameters()) == sizes.parameters
