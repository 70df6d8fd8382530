"""`lofit-lens compare`: the table, and the folder from which it can be made again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from lofit_lens.analysis.kinds.comparison import Comparison
from tests.commands import fail, lofit_lens, succeed

METHODS = "zero-shot,iti,repe-reading,repe-contrast,lofit,lora,random-heads"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    rows = [
        {"sentence_good": f"The cat {i} is grey.", "sentence_bad": f"The grey {i} cat is."}
        for i in range(24)
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.mark.filterwarnings("ignore")
def test_the_table_can_be_made_again_from_the_records_without_the_model(
    tiny_folder: Callable[[str], Path], pairs: Path, tmp_path: Path
) -> None:
    request = (
        "compare", "--model", tiny_folder("llama"), "--task", pairs, "--methods", METHODS,
        "--seeds", 2, "--epochs", 1, "--k", 2, "--out", "out",
    )  # fmt: skip
    printed = succeed(*request, cwd=tmp_path)
    written = {Path(path).name for path in printed["paths"]}
    assert {"table.csv", "table.md", "table.html", "table.tex", "forest.html"} <= written
    records = list((tmp_path / "out" / "records").glob("*.json.gz"))
    assert len(records) == 1 + 6 * 2

    again = Comparison.load(tmp_path / "out")
    assert again.methods == tuple(METHODS.split(","))
    rebuilt = pd.DataFrame(printed["table"]).astype({"n": float})
    frame = again.frame().astype({"n": float})
    for column in ("method", "task", "metric", "value", "low", "high", "n", "p", "fit_tokens"):
        expected = frame[column].tolist()
        assert rebuilt[column].tolist() == pytest.approx(expected, nan_ok=True), column

    assert "--overwrite" in fail(*request, cwd=tmp_path)
    more = [METHODS + ",lofit@last" if a == METHODS else a for a in request]
    succeed(*more, "--resume", cwd=tmp_path)
    after = list((tmp_path / "out" / "records").glob("*.json.gz"))
    assert set(records) < set(after)
    assert len(after) == 1 + 7 * 2
    table = (tmp_path / "out" / "table.csv").read_bytes()
    for odd in (
        ("--resume", "--l1", "0.5"),
        ("--overwrite", "--k", "5000"),
        ("--overwrite", "--scope", "last"),
    ):
        fail(*more, *odd, cwd=tmp_path)
    assert (tmp_path / "out" / "table.csv").read_bytes() == table
    assert Comparison.load(tmp_path / "out").seeds == (42, 43)
    fewer = ["lofit" if a == more[more.index("--methods") + 1] else a for a in more]
    succeed(*fewer, "--resume", "--seed", 44, cwd=tmp_path)
    assert Comparison.load(tmp_path / "out").seeds == (44, 45)


def test_people_get_a_table_with_intervals_and_costs_and_a_legend(
    tiny_folder: Callable[[str], Path], pairs: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The cat is grey.\nWho lives in the old house?\n", encoding="utf-8")
    done = lofit_lens(
        "compare", "--model", tiny_folder("llama"), "--task", pairs, "--methods", "random-heads",
        "--epochs", 1, "--text", text, "--quiet", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for expected in ("zero-shot", "random-heads", "accuracy", "[", "KL", "parameters", "floor"):
        assert expected in done.stdout
    assert list(tmp_path.iterdir()) == [text]


def test_a_method_that_fails_is_named_and_the_rest_is_still_told(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    same = tmp_path / "same.csv"
    same.write_text("q,a\n" + "".join(f"Who is {i}?,Anna\n" for i in range(24)), encoding="utf-8")
    done = lofit_lens(
        "compare", "--model", tiny_folder("llama"), "--task", same, "--prompt", "Q: {q} A:",
        "--answer", "a", "--methods", "iti,lofit", "--epochs", 1, "--json", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    assert "method iti on same with seed 42" in done.stderr
    printed = json.loads(done.stdout)
    assert [row["method"] for row in printed["table"]] == ["zero-shot", "lofit"]
    assert len(printed["failures"]) == 1


def test_a_wrong_request_is_told_and_leaves_no_folder(
    tiny_folder: Callable[[str], Path], pairs: Path, tmp_path: Path
) -> None:
    base = ("compare", "--model", tiny_folder("llama"), "--task", pairs)
    assert "no method 'lofti'" in fail(*base, "--methods", "lofti", cwd=tmp_path)
    assert "lora=1e-4" in fail(*base, "--rate", "lora", cwd=tmp_path)
    missing = fail(*base, "--text", "nowhere.txt", cwd=tmp_path)
    assert "nowhere.txt" in missing
    assert "There is no run of 'lora'" in fail(
        *base, "--methods", "lofit", "--base", "lora", "--out", "out", cwd=tmp_path
    )
    assert "Say which task" in fail("compare", "--model", tiny_folder("llama"), cwd=tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.real
def test_the_blimp_comparison_runs_on_a_real_model(
    models_dir: Path, data_dir: Path, tmp_path: Path
) -> None:
    printed = succeed(
        "compare", "--model", models_dir / "stories3M",
        "--task", data_dir / "blimp" / "only_npi_scope.jsonl", "--methods", METHODS,
        "--fraction", 0.1, "--shares", 0.1, 0.05, 0.1, "--epochs", 2, cwd=tmp_path,
    )  # fmt: skip
    values = {row["method"]: row["value"] for row in printed["table"]}
    assert list(values) == METHODS.split(",")
    assert values["lofit"] > values["zero-shot"]
