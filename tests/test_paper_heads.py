from __future__ import annotations

import pytest

from lofit_lens.analysis.cli.console import Report
from lofit_lens.analysis.cli.options import HeadOptions
from lofit_lens.errors import LofitLensError
from lofit_lens.training import paper_heads

TOTALS = {"gemma-7b": 28 * 16, "llama2-7b": 32 * 32, "llama2-13b": 40 * 40}


def test_the_papers_shares_are_names_of_numbers_of_its_own() -> None:
    assert [paper_heads(model) for model in TOTALS] == [16, 32, 48]
    assert [paper_heads(model, fraction=0.1) for model in TOTALS] == [48, 96, 160]
    with pytest.raises(LofitLensError, match="models gemma-7b, llama2-7b, llama2-13b, got 'gpt2'"):
        paper_heads("gpt2")
    with pytest.raises(LofitLensError, match=r"0\.03 or 0\.1 of the heads, got 0\.05"):
        paper_heads("gemma-7b", fraction=0.05)


@pytest.mark.parametrize(("fraction", "ks"), [(0.03, (16, 32, 48)), (0.1, (48, 96, 160))])
def test_a_preset_of_the_paper_takes_its_number_on_a_model_of_its_size_and_says_so(
    fraction: float, ks: tuple[int, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    for (preset, total), k in zip(TOTALS.items(), ks, strict=True):
        asked = HeadOptions(fraction=fraction).under(preset, total, Report(as_json=False))
        assert (asked.k, asked.fraction) == (k, None)
        assert f"{fraction:.0%} of {total} heads are {k}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "preset", "total"),
    [
        (HeadOptions(fraction=0.03), "llama2-7b", 270),
        (HeadOptions(fraction=0.05), "llama2-7b", 1024),
        (HeadOptions(fraction=0.03), "embedded", 64),
        (HeadOptions(fraction=0.03), None, 1024),
        (HeadOptions(k=31), "llama2-7b", 1024),
        (HeadOptions(fraction=0.0), "llama2-7b", 1024),
        (HeadOptions(), "llama2-7b", 1024),
    ],
)
def test_any_other_request_stays_as_it_is(
    asked: HeadOptions, preset: str | None, total: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asked.under(preset, total, Report(as_json=False)) == asked
    assert not capsys.readouterr().err


def test_a_comparison_of_the_paper_starts_from_its_number_too() -> None:
    report = Report(as_json=False)
    assert HeadOptions().under("llama2-7b", 1024, report, default=0.03) == HeadOptions(k=32)
