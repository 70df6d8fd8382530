"""The command line as a user meets it: a process, its two outputs and its exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.commands import fail, lofit_lens, succeed
from tests.helpers import N_HEADS, N_LAYERS

COMMANDS = ("demo", "compare", "transfer", "sweep", "causal", "figures", "report")
COMMANDS += ("select", "tune", "lofit", "evaluate", "export", "heads")
COMMANDS += ("plan", "run", "status", "reproduce")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    rows = [
        {"sentence_good": f"The cat {i} is grey.", "sentence_bad": f"The grey {i} cat is."}
        for i in range(20)
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(
    tiny_folder: Callable[[str], Path], pairs: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """One finished run, and what it printed."""
    folder = tmp_path_factory.mktemp("work")
    printed = succeed(
        "lofit", "--model", tiny_folder("llama"), "--task", pairs, "--k", 3, "--epochs", 1,
        "--random-draws", 1, "--out", "run", cwd=folder,
    )  # fmt: skip
    return folder, printed


def test_lofit_prints_metrics_before_and_after_and_the_paths_it_wrote(
    run: tuple[Path, dict[str, Any]],
) -> None:
    folder, printed = run
    assert set(printed["metrics"]) == {"zero_shot", "tuned", "random_0"}
    for metrics in printed["metrics"].values():
        assert set(metrics["accuracy"]) == {"value", "low", "high", "n"}
        assert metrics["accuracy"]["n"] == 10
    assert printed["floors"] == {"chance": 0.5}
    assert all((folder / path).is_file() for path in printed["paths"])
    names = {Path(path).name for path in printed["paths"]}
    assert {"run.json", "scores.json", "heads.npy", "intervention.safetensors"} <= names
    assert np.load(folder / "run" / "heads.npy").tolist() == printed["heads"][0]


def test_evaluate_gives_the_same_numbers_to_the_last_digit(
    run: tuple[Path, dict[str, Any]],
) -> None:
    folder, printed = run
    again = succeed("evaluate", "--intervention", "run", "--out", "again.json.gz", cwd=folder)
    assert again["metrics"]["tuned"] == printed["metrics"]["tuned"]
    assert (folder / "again.json.gz").read_bytes() == (folder / "run/tuned.json.gz").read_bytes()


def test_the_exported_checkpoint_scores_the_same_without_an_intervention(
    run: tuple[Path, dict[str, Any]], pairs: Path
) -> None:
    folder, printed = run
    done = succeed("export", "--intervention", "run", "--out", "stock", cwd=folder)
    assert done["max_logit_difference"] < 1e-4
    scored = succeed("evaluate", "--model", "stock", "--task", pairs, cwd=folder)
    assert scored["metrics"]["zero_shot"] == printed["metrics"]["tuned"]
    assert "exists already" in fail("export", "--intervention", "run", "--out", "stock", cwd=folder)
    assert "another one" in fail(
        "evaluate", "--intervention", "run", "--model", "stock", cwd=folder
    )


def test_select_then_tune_gives_the_run_of_lofit(
    run: tuple[Path, dict[str, Any]], tiny_folder: Callable[[str], Path], pairs: Path
) -> None:
    folder, printed = run
    model = ("--model", tiny_folder("llama"), "--task", pairs, "--epochs", 1)
    selected = succeed("select", *model, "--k", 3, "--out", "selected", cwd=folder)
    assert selected["heads"] == printed["heads"]
    succeed("tune", *model, "--heads", "selected", "--out", "tuned", cwd=folder)
    one, other = (folder / name / "intervention.safetensors" for name in ("run", "tuned"))
    assert one.read_bytes() == other.read_bytes()


def test_heads_shows_compares_and_converts(run: tuple[Path, dict[str, Any]]) -> None:
    folder, printed = run
    shown = succeed("heads", "run", "--out", "list.json", cwd=folder)
    assert shown["heads"] == printed["heads"][0]
    assert sum(shown["layer_counts"]) == 3
    more = succeed("heads", "run", "--k", 5, cwd=folder)
    assert more["heads"][:3] == shown["heads"]
    same = succeed("heads", "run", "list.json", cwd=folder)
    assert same["jaccard"] == 1.0
    bare = fail("heads", "run/heads.npy", cwd=folder)
    assert "n_layers" in bare
    shape = ("--n-layers", N_LAYERS, "--n-heads", N_HEADS)
    assert succeed("heads", "run/heads.npy", *shape, cwd=folder)["heads"] == shown["heads"]


def test_a_finished_run_is_not_overwritten_unless_asked(
    run: tuple[Path, dict[str, Any]], tiny_folder: Callable[[str], Path], pairs: Path
) -> None:
    folder, _ = run
    before = (folder / "run" / "run.json").read_bytes()
    message = fail(
        "lofit", "--model", tiny_folder("llama"), "--task", pairs, "--k", 2, "--out", "run",
        cwd=folder,
    )  # fmt: skip
    assert "--overwrite" in message
    assert (folder / "run" / "run.json").read_bytes() == before


def test_overwriting_leaves_nothing_of_the_earlier_run(
    tmp_path: Path, tiny_folder: Callable[[str], Path], pairs: Path
) -> None:
    (tmp_path / "run" / "fold-0").mkdir(parents=True)
    for stale in ("random_7.json.gz", "fold-0/intervention.json", "heads.npy"):
        (tmp_path / "run" / stale).write_text("stale")
    (tmp_path / "run" / "notes.txt").write_text("mine")
    command = (
        "select", "--model", tiny_folder("llama"), "--task", pairs, "--epochs", 1, "--out", "run",
    )  # fmt: skip
    assert "--overwrite" in fail(*command, cwd=tmp_path)
    fail(*command, "--overwrite", "--selection-lr", "-1", cwd=tmp_path)
    assert (tmp_path / "run" / "heads.npy").is_file()
    succeed(*command, "--overwrite", cwd=tmp_path)
    left = {path.name for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert left == {"run.json", "scores.json", "notes.txt"}


def test_folds_of_heads_must_fit_the_folds_of_the_task(
    run: tuple[Path, dict[str, Any]], tiny_folder: Callable[[str], Path], pairs: Path
) -> None:
    folder, _ = run
    for i in range(2):
        (folder / "two" / f"fold-{i}").mkdir(parents=True)
        for name in ("scores.json", "heads.npy"):
            (folder / "two" / f"fold-{i}" / name).write_bytes((folder / "run" / name).read_bytes())
    model = ("--model", tiny_folder("llama"), "--task", pairs, "--epochs", 1, "--out", "from-two")
    message = fail("tune", *model, "--heads", "two", cwd=folder)
    assert "holds 2 folds, the task has 1" in message


def test_data_that_changed_since_the_run_are_not_scored(
    tmp_path: Path, tiny_folder: Callable[[str], Path], pairs: Path
) -> None:
    rows = pairs.read_text(encoding="utf-8").splitlines()
    data = tmp_path / "own.jsonl"
    data.write_text("\n".join(rows), encoding="utf-8")
    model = ("--model", tiny_folder("llama"), "--task", "own.jsonl", "--epochs", 1)
    succeed("lofit", *model, "--k", 1, "--out", "run", cwd=tmp_path)
    other_split = fail(
        "evaluate", "--intervention", "run", "--task", "own.jsonl", "--split-seed", 7, cwd=tmp_path
    )
    assert "may have been trained on" in other_split
    data.write_text("\n".join(rows[:-2]), encoding="utf-8")
    assert "changed since" in fail("evaluate", "--intervention", "run", cwd=tmp_path)


def test_all_malformed_rows_are_named_at_once(
    tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    (tmp_path / "bad.csv").write_text("question,answer\nWho?,Anna\nWhat?,\n,Ben\n")
    message = fail(
        "lofit", "--model", tiny_folder("llama"), "--task", "bad.csv", "--prompt", "{question}",
        "--answer", "answer", "--k", 1, "--out", "x", cwd=tmp_path,
    )  # fmt: skip
    assert "2 problems in malformed rows" in message
    assert "bad.csv line 3, column 'answer'" in message
    assert "bad.csv line 4, column 'question'" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--task", "nothing"), "There is no task 'nothing'"),
        (("--task", "mquake", "--prompt", "x"), "mquake is fixed"),
        (("--task", "{pairs}", "--k", "1", "--scope", "some"), "scope must be one of"),
        (("--task", "{pairs}", "--k", "1", "--objective", "ppo"), "objective must be one of"),
        (("--task", "{pairs}", "--k", "1", "--preset", "llama9"), "Table 6 of the paper has no row"),
        (("--task", "{pairs}", "--k", "1", "--tuning-lr", "-1"), "learning_rate must be greater than 0"),
        (("--task", "{pairs}", "--k", "1", "--tuning-lr", "fast"), 'greater than 0, or "auto"; got \'fast\''),
        (("--task", "{pairs}", "--model", "./no-model"), "There is no model folder"),
        (("--task", "{pairs}", "--fraction", "3"), "fraction must be in (0, 1]"),
        (("--task", "{pairs}", "--k", "99"), "k must be a whole number from 1 to 12"),
        (("--task", "{pairs}",), "Give either k or fraction"),
        (("--task", "{pairs}", "--k", "1", "--dtype", "int4"), "dtype must be one of"),
        (("--task", "{pairs}", "--k", "1", "--answer-is", "x", "--answer", "a"), "answer_is must be"),
    ],
)  # fmt: skip
def test_a_mistake_ends_with_a_message_and_without_a_traceback(
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    tiny_folder: Callable[[str], Path],
    pairs: Path,
) -> None:
    filled = [a.replace("{pairs}", str(pairs)) for a in arguments]
    model = () if "--model" in filled else ("--model", tiny_folder("llama"))
    assert message in fail("lofit", *model, *filled, "--out", "x", cwd=tmp_path)


def test_a_missing_data_file_names_the_file_to_provide(
    tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    message = fail(
        "evaluate", "--model", tiny_folder("llama"), "--task", "mquake", "--data-dir", tmp_path,
        cwd=tmp_path,
    )  # fmt: skip
    assert "mquake/train.jsonl" in message


def test_training_that_diverges_saves_what_was_learned(
    tmp_path: Path, tiny_folder: Callable[[str], Path], pairs: Path
) -> None:
    message = fail(
        "lofit", "--model", tiny_folder("llama"), "--task", pairs, "--k", 3, "--epochs", 30,
        "--train-batch-size", 1, "--selection-lr", "3e37", "--out", "x", cwd=tmp_path,
    )  # fmt: skip
    assert "stopped after" in message
    assert (tmp_path / "x" / "stopped" / "intervention.safetensors").is_file()


def test_wrong_usage_exits_with_2_and_help_with_0(tmp_path: Path) -> None:
    assert lofit_lens("lofit", "--nonsense", cwd=tmp_path).returncode == 2
    for command in COMMANDS:
        done = lofit_lens(command, "--help", cwd=tmp_path)
        assert done.returncode == 0
        assert "--json" in done.stdout


def test_a_run_on_the_embedded_model_is_scored_again_from_its_folder_alone(tmp_path: Path) -> None:
    trained = succeed(
        "lofit", "--model", "embedded", "--task", "embedded:kinship", "--preset", "embedded",
        "--fraction", 0.1, "--out", "run", cwd=tmp_path,
    )  # fmt: skip
    assert json.loads((tmp_path / "run" / "run.json").read_text())["loaded"]["model"] == "embedded"
    again = succeed("evaluate", "--intervention", "run", cwd=tmp_path)
    before, after = trained["metrics"]["zero_shot"]["EM"], trained["metrics"]["tuned"]["EM"]
    assert after["value"] > before["value"] + 0.5
    assert after in [metrics["EM"] for metrics in again["metrics"].values()]


def test_the_embedded_model_at_the_default_learning_rates_gets_a_hint(tmp_path: Path) -> None:
    done = lofit_lens(
        "select", "--model", "embedded", "--task", "embedded:edit", "--epochs", 1, "--out", "run",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0
    assert "--preset embedded" in done.stderr
    told = fail("lofit", "--model", "embedded", "--task", "embedded:love", "--k", 1, "--out", "x",
                cwd=tmp_path)  # fmt: skip
    assert "embedded:kinship" in told
