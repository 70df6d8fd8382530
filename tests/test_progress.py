"""Bars over long work."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
from tqdm import tqdm

import lofit_lens as ll
from lofit_lens import analysis as an
from lofit_lens.progress import long_bar


def test_an_estimate_is_shown_from_a_tenth_on_by_the_mean_of_all_parts() -> None:
    bar = long_bar(range(40), "work", progress=True)
    shown = {}
    for done in (1, 3, 4, 20):
        bar.n = done
        said = {**bar.format_dict, "elapsed": 60.0, "rate": None, "ncols": 80}
        shown[done] = tqdm.format_meter(**said)
    assert "<" not in shown[1]
    assert re.search(r"3/40 \[01:00\]", shown[3])
    assert "4/40 [01:00<09:00" in shown[4]  # 36 parts at the pace of 4 a minute
    assert "20/40 [01:00<01:00" in shown[20]
    assert bar.smoothing == 0


def test_a_bar_counts_what_is_iterated(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(long_bar("abc", "letters", progress=False)) == ["a", "b", "c"]
    assert not capsys.readouterr().err
    assert list(long_bar("abc", "letters", progress=True)) == ["a", "b", "c"]
    assert "letters: 100%" in capsys.readouterr().err


@pytest.mark.parametrize("module", [ll, an])
def test_every_public_function_with_a_bar_shows_it_by_default(module: Any) -> None:
    functions = [getattr(module, name) for name in module.__all__]
    with_bar = {
        one.__name__: inspect.signature(one).parameters["progress"].default
        for one in functions
        if inspect.isfunction(one) and "progress" in inspect.signature(one).parameters
    }
    assert len(with_bar) >= 6
    assert all(default is True for default in with_bar.values())
