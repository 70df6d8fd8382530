"""Whatever is saved from Python is read by the commands that read results."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from pandas.testing import assert_frame_equal
from typer.testing import CliRunner

from lofit_lens.analysis.cli.main import app
from lofit_lens.analysis.inside.layers import layer_distribution
from lofit_lens.analysis.kinds.comparison import Comparison
from lofit_lens.analysis.kinds.curves import CURVES, CausalCurves, Curve
from lofit_lens.analysis.kinds.lofit import lofit
from lofit_lens.analysis.kinds.matrix import TransferMatrix
from lofit_lens.analysis.kinds.sweep import Sweep
from lofit_lens.analysis.reading.open import open_study
from lofit_lens.head_scores import HeadScores
from lofit_lens.heads import HeadSet
from lofit_lens.training import SelectionConfig, TuningConfig
from tests import earlier_folders
from tests.test_comparison import whole
from tests.test_training import colour_task
from tests.test_transfer import matrix

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


def command(*arguments: object) -> dict[str, object]:
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def reported(folder: Path) -> str:
    """The page of a folder, after every figure of it has been drawn as well."""
    drawn = command("figures", folder, "--out", folder.with_name("figures"))
    assert drawn["paths"]
    command("report", folder)
    return (folder / "report.html").read_text(encoding="utf-8")


def test_a_comparison(tmp_path: Path) -> None:
    result = replace(whole(), base="iti")
    saved = result.save(tmp_path / "saved")
    assert "repe" in reported(saved)
    loaded = Comparison.load(saved)
    assert loaded.base == "iti"
    assert_frame_equal(loaded.frame(), result.frame())
    assert result.save(saved) == saved


def test_a_transfer_matrix(tmp_path: Path) -> None:
    result = matrix()
    saved = result.save(tmp_path / "saved")
    assert "Figure 2" in reported(saved)
    loaded = TransferMatrix.load(saved)
    assert_frame_equal(loaded.frame(zero_shot=True), result.frame(zero_shot=True))
    assert result.save(saved) == saved


def test_what_earlier_versions_saved_is_still_read(tmp_path: Path) -> None:
    for place, run in enumerate(whole().runs):
        earlier_folders.write_run(tmp_path / "comparison", run, place)
    assert_frame_equal(Comparison.load(tmp_path / "comparison").frame(), whole().frame())
    for path in (tmp_path / "comparison").glob("*zero-shot*"):
        path.unlink()
    assert Comparison.load(tmp_path / "comparison", base="iti").base == "iti"
    earlier_folders.write_transfer_records(tmp_path / "transfer", matrix())
    assert_frame_equal(TransferMatrix.load(tmp_path / "transfer").frame(), matrix().frame())
    sweep = Sweep("heads", {3: whole(), 6: whole()}, 32)
    earlier_folders.write_sweep(tmp_path / "sweep", sweep)
    assert_frame_equal(Sweep.load(tmp_path / "sweep").frame(), sweep.frame())


def test_a_sweep(tmp_path: Path) -> None:
    sweep = Sweep("heads", {3: whole(), 6: whole()}, 32)
    saved = sweep.save(tmp_path / "saved")
    assert "Figures 4 and 5" in reported(saved)


def test_both_stages(llama: TransformerBridge, tmp_path: Path) -> None:
    run = lofit(
        llama, colour_task(), k=3, selection=SelectionConfig(epochs=1), random_draws=1,
        tuning=TuningConfig(epochs=1), progress=False,
    )  # fmt: skip
    page = reported(run.save(tmp_path / "run"))
    assert str(next(iter(run.heads))) in page
    assert "colours" in reported(run.intervention.save(tmp_path / "tuned" / "edit"))
    run.scores.save(tmp_path / "scored" / "run" / "scores.json")
    assert "colours" in reported(tmp_path / "scored" / "run")


def test_causal_curves(tmp_path: Path) -> None:
    heads = HeadSet([(0, 1), (1, 0)], n_layers=2, n_heads=2)
    scores: dict[Curve, np.ndarray] = {curve: np.ones((3, 3, 4)) for curve in CURVES}
    curves = CausalCurves(
        "kin", "test", "EM", heads, (0, 1, 2), "zero", scores, np.ones(4), None, tuple("abcd")
    )
    curves.save(tmp_path / "run" / "causal-kin.json.gz")
    assert "causal" in reported(tmp_path / "run")


def test_heads_by_layer(tmp_path: Path) -> None:
    sets = [HeadSet([(i, 1), (2, 0)], n_layers=3, n_heads=4) for i in range(2)]
    layer_distribution({"kin": sets}).save(tmp_path / "run" / "layers.json")
    assert "Figure 3" in reported(tmp_path / "run")
    assert open_study(tmp_path / "run").heads == {"kin": tuple(sets)}


def test_several_saved_results_in_one_folder(tmp_path: Path) -> None:
    whole().save(tmp_path / "all" / "comparison")
    matrix().save(tmp_path / "all" / "transfer")
    study = open_study(tmp_path / "all")
    assert len(study.comparisons) == len(study.matrices) == 1
    assert not study.left_out
    reported(tmp_path / "all")


@pytest.mark.parametrize("make", [whole, matrix])
def test_a_folder_with_anything_else_is_left_alone(
    tmp_path: Path, make: Callable[[], Comparison | TransferMatrix]
) -> None:
    from lofit_lens.errors import LofitLensError

    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(LofitLensError, match="is not empty and does not hold a"):
        make().save(tmp_path)
    with pytest.raises(LofitLensError, match="is a file"):
        make().save(tmp_path / "mine.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_scores_without_a_provenance(tmp_path: Path) -> None:
    import torch

    HeadScores(torch.eye(3)).save(tmp_path / "run" / "scores.json")
    reported(tmp_path / "run")
