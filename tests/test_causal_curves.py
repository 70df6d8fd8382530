from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformer_lens.model_bridge import TransformerBridge

from lofit_lens.analysis.causal.ablation import mean_ablation, zero_ablation
from lofit_lens.analysis.causal.controls import others_like
from lofit_lens.analysis.causal.patching import PatchIntervention
from lofit_lens.analysis.causal.stacking import StackedEdits
from lofit_lens.analysis.kinds.causal import causal_curves
from lofit_lens.analysis.kinds.curves import CHOSEN, CURVES, RANDOM, CausalCurves
from lofit_lens.analysis.study.paired import RESAMPLES
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import LofitLensError, ModelMismatchError, UnsupportedError
from lofit_lens.heads import HeadSet
from lofit_lens.plotting import NEUTRAL, TEMPLATE
from lofit_lens.scoring import evaluate
from lofit_lens.statistics import crossed_interval, holm, paired_difference
from lofit_lens.tasks import ExactMatch, Example, MultipleChoice, Task
from tests.helpers import N_HEADS, N_LAYERS, draw_edit, type_checks_off
from tests.test_causal_ablation import some_heads

ALL = HeadSet.every(n_layers=N_LAYERS, n_heads=N_HEADS)
NONE = HeadSet([], n_layers=N_LAYERS, n_heads=N_HEADS)


def things(*, scoring: Any = None) -> Task:
    """Two colours a thing; which of them a random model prefers depends on the thing."""
    colours, names = (" blue.", " grey.", " red."), ("sky", "cat", "house", "sister")
    examples = tuple(
        Example(
            f"{name}-{i}",
            f"{'The ' * i}{name} is",
            (colours[i % 3],),
            colours[i % 3 - 2 :][:1],
            name,
        )
        for name in names
        for i in range(1, 5)
    )
    rule = scoring or MultipleChoice(("MC2", "accuracy"))
    return Task("things", examples[:9], examples[:5], examples, examples[5:12], "sft", rule)


def scores(model: TransformerBridge, edit: Any, **options: Any) -> list[float]:
    found = evaluate(model, things(), edit, progress=False, **options)
    return [record["MC2"] for record in found.records]


def curves(model: TransformerBridge, heads: HeadSet | None = None, **options: Any) -> CausalCurves:
    return causal_curves(
        model, things(), heads or some_heads(), progress=False, **{"draws": 1, **options}
    )


def built(*, edited: bool = True) -> CausalCurves:
    """Scores of our own: chosen heads matter from the first, random ones not at all."""
    rng = np.random.default_rng(0)
    noise = 0.05 * rng.normal(size=(2, 5, 4, 40))
    necessity, sufficiency = 0.8 + noise[0], 0.2 + noise[1]
    necessity[0, 1:] -= 0.5
    sufficiency[0, 2:] += 0.6
    necessity[:, 0], sufficiency[:, 0] = necessity[0, 0], sufficiency[0, 0]
    return CausalCurves(
        task="things",
        split="test",
        metric="MC2",
        heads=some_heads(),
        ks=(0, 1, 2, 4),
        ablation="unedited" if edited else "mean",
        scores={"necessity": necessity, "sufficiency": sufficiency},
        unedited=sufficiency[0, 0],
        edited=necessity[0, 0] if edited else None,
        groups=tuple(f"g{i // 2}" for i in range(40)),
    )


def test_an_edit_is_explained_by_restoring_and_by_patching_the_first_heads(
    llama: TransformerBridge,
) -> None:
    heads, tuned = some_heads((2, 0), (0, 1), (1, 3)), draw_edit(llama, heads=ALL)
    found = curves(llama, heads, edit=tuned)
    assert (found.ks, found.ablation, found.metric) == ((0, 1, 2, 3), "unedited", "MC2")
    for place, k in enumerate((1, 2, 3), start=1):
        first = heads.first(k)
        without = scores(llama, PatchIntervention(first, base=tuned))
        only = scores(llama, PatchIntervention(first, donor=tuned))
        assert found.scores["necessity"][0, place].tolist() == without
        assert found.scores["sufficiency"][0, place].tolist() == only


def test_the_ends_of_the_curves_of_an_edit_are_the_edited_and_the_unedited_model(
    llama: TransformerBridge,
) -> None:
    tuned = draw_edit(llama)
    found = curves(llama, tuned.heads, edit=tuned)
    edited, unedited = scores(llama, tuned), scores(llama, None)
    assert found.edited is not None
    assert (found.edited.tolist(), found.unedited.tolist()) == (edited, unedited)
    assert edited != unedited
    necessity, sufficiency = (found.scores[curve] for curve in CURVES)
    np.testing.assert_allclose(necessity[:, 0], np.tile(edited, (2, 1)), atol=1e-6)
    np.testing.assert_allclose(sufficiency[:, 0], np.tile(unedited, (2, 1)), atol=1e-6)
    np.testing.assert_allclose(necessity[0, -1], unedited, atol=1e-6)
    np.testing.assert_allclose(sufficiency[0, -1], edited, atol=1e-6)


@pytest.mark.parametrize("ablation", ["mean", "zero"])
def test_heads_of_an_edited_model_can_be_ablated_and_the_ablation_wins(
    ablation: Any, llama: TransformerBridge
) -> None:
    tuned, task = draw_edit(llama), things()
    found = curves(llama, tuned.heads, edit=tuned, ablation=ablation, ks=[2, 4])
    first = tuned.heads.first(2)
    ablated = (
        zero_ablation(llama, first) if ablation == "zero" else mean_ablation(llama, task, first)
    )
    expected = scores(llama, StackedEdits((tuned, ablated)))
    assert found.scores["necessity"][0, 0].tolist() == expected
    without = curves(llama, tuned.heads, ablation=ablation, ks=[4], draws=1)
    assert (
        found.scores["necessity"][0, 1].tolist() == without.scores["necessity"][0, 0].tolist()
    )  # all that the edit changes is ablated


@pytest.mark.parametrize("ablation", ["mean", "zero"])
def test_without_an_edit_the_first_heads_are_ablated_or_all_others(
    ablation: Any, llama: TransformerBridge
) -> None:
    found = curves(llama, ablation=ablation, ks=[0, 2])

    def ablated(heads: HeadSet) -> list[float]:
        if ablation == "zero":
            return scores(llama, zero_ablation(llama, heads))
        return scores(llama, mean_ablation(llama, things(), heads))

    first = some_heads().first(2)
    unedited = scores(llama, None)
    assert found.edited is None
    assert found.scores["necessity"][0].tolist() == [unedited, ablated(first)]
    assert found.scores["sufficiency"][0].tolist() == [ablated(ALL), ablated(ALL - first)]


def test_a_ranking_of_all_heads_goes_from_the_whole_model_to_none_of_its_heads(
    llama: TransformerBridge,
) -> None:
    ranking = HeadSet.random(len(ALL), n_layers=N_LAYERS, n_heads=N_HEADS, seed=3)
    found = curves(llama, ranking, ks=[0, 5, 12])
    necessity, sufficiency = (found.scores[curve] for curve in CURVES)
    assert found.unedited.tolist() == necessity[0, 0].tolist() == sufficiency[0, -1].tolist()
    assert necessity[0, -1].tolist() == sufficiency[0, 0].tolist()
    for table in (necessity, sufficiency):
        for end in (0, -1):
            assert (table[:, end] == table[0, end]).all()


def test_random_heads_are_nested_draws_of_other_heads_of_the_same_layers(
    llama: TransformerBridge,
) -> None:
    heads = some_heads()
    found = curves(llama, heads, ablation="zero", ks=[1, 3], seed=5, draws=2)
    assert found.draws == 2
    for draw in range(2):
        ranking = others_like(heads, seed=5, draw=draw)
        for place, k in enumerate((1, 3)):
            expected = scores(llama, zero_ablation(llama, ranking.first(k)))
            assert found.scores["necessity"][draw + 1, place].tolist() == expected


def test_other_heads_match_the_layers_in_their_order_and_are_all_drawn_alike() -> None:
    heads = HeadSet([(1, 2), (0, 5), (1, 0), (0, 1), (0, 4)], n_layers=3, n_heads=8)
    drawn = [others_like(heads, seed=seed) for seed in range(400)]
    for other in drawn:
        assert [head.layer for head in other] == [head.layer for head in heads]
        assert not other & heads
    firsts = np.bincount([other.heads[0].head for other in drawn], minlength=8)
    assert firsts[[0, 2]].sum() == 0
    assert chisquare(firsts[[1, 3, 4, 5, 6, 7]]).pvalue > 0.001
    assert others_like(heads, seed=7) == others_like(heads, seed=7)


def test_chosen_heads_are_drawn_where_a_layer_has_too_few_others() -> None:
    heads = HeadSet([(0, 0), (0, 1), (0, 2), (1, 3)], n_layers=2, n_heads=4)
    for seed in range(20):
        other = others_like(heads, seed=seed)
        assert other.heads[0] == (0, 3)
        assert set(other.heads[1:3]) < {(0, 0), (0, 1), (0, 2)}
        assert other.heads[3] not in heads
    every = HeadSet.every(n_layers=2, n_heads=4)
    assert set(others_like(every, seed=0)) == set(every)


def test_split_and_scoring_rule_are_those_of_evaluate(llama: TransformerBridge) -> None:
    task = replace(things(), compat={"rough": MultipleChoice(("accuracy",))})
    found = causal_curves(
        llama, task, some_heads(), ks=[1], draws=1, split="val", compat="rough", progress=False
    )
    expected = evaluate(llama, task, split="val", compat="rough", progress=False)
    assert (found.metric, found.split) == ("accuracy", "val")
    assert found.unedited.tolist() == [record["accuracy"] for record in expected.records]
    assert found.groups == tuple(record["group"] for record in expected.records)


def test_a_task_of_exact_match_has_curves_of_an_edit(llama: TransformerBridge) -> None:
    task, tuned = things(scoring=ExactMatch(max_new_tokens=2)), draw_edit(llama)
    found = causal_curves(llama, task, tuned.heads, edit=tuned, ks=[4], draws=1, progress=False)
    assert found.metric == "EM"
    assert found.scores["sufficiency"].shape == (2, 1, len(task.test))


def test_by_default_k_doubles_up_to_all_heads(llama: TransformerBridge) -> None:
    for n, expected in ((1, (0, 1)), (2, (0, 1, 2)), (6, (0, 1, 2, 4, 6)), (8, (0, 1, 2, 4, 8))):
        ranking = HeadSet.random(n, n_layers=N_LAYERS, n_heads=N_HEADS, seed=n)
        assert curves(llama, ranking, ablation="zero").ks == expected


def test_the_frame_holds_intervals_and_tests_over_draws_and_groups_of_items() -> None:
    found = built()
    frame = found.frame()
    assert frame["curve"].tolist() == ["necessity"] * 8 + ["sufficiency"] * 8
    assert frame["heads"].tolist() == ([CHOSEN] * 4 + [RANDOM] * 4) * 2
    assert frame["k"].tolist() == [0, 1, 2, 4] * 4
    assert (frame["n"] == 40).all()
    assert frame["draws"].tolist() == ([1] * 4 + [4] * 4) * 2
    for curve in CURVES:
        rows = frame[frame["curve"] == curve]
        raw = []
        for place in range(4):
            chosen, drawn = found.scores[curve][:1, place], found.scores[curve][1:, place]
            for table, row in zip((chosen, drawn), (place, place + 4), strict=True):
                e = crossed_interval(table, groups=found.groups)
                assert rows[["value", "low", "high"]].iloc[row].tolist() == [e.value, e.low, e.high]
                assert e.value == pytest.approx(table.mean())
            if place:
                d = paired_difference(
                    np.repeat(chosen, 4, axis=0), drawn, groups=found.groups, resamples=RESAMPLES
                )
                names = ["difference", "difference_low", "difference_high", "p"]
                assert rows[names].iloc[place].tolist() == [d.value, d.low, d.high, d.p]
                raw.append(d.p)
        assert rows["p_holm"].iloc[1:4].tolist() == holm(np.array(raw)).tolist()
        untested = rows.iloc[[0, *range(4, 8)]]
        assert untested[["difference", "p", "p_holm"]].isna().all(axis=None)
        assert (untested["mark"] == "").all()


def test_a_mark_stands_where_chosen_heads_differ_from_random_ones_either_way() -> None:
    found = built()
    marks = found.frame()["mark"].tolist()
    assert marks[:4] == ["", "*", "*", "*"]
    assert marks[8:12] == ["", "", "*", "*"]
    turned = {curve: 1 - table for curve, table in found.scores.items()}
    assert replace(found, scores=turned).frame()["mark"].tolist() == marks


def test_nothing_is_found_where_chosen_heads_are_like_random_ones() -> None:
    noise = np.random.default_rng(1).normal(size=(2, 6, 4, 40))
    frame = replace(built(), scores=dict(zip(CURVES, noise, strict=True))).frame()
    assert (frame["mark"] == "").all()


def test_saved_curves_are_read_back(tmp_path: Path) -> None:
    for found in (built(), built(edited=False)):
        read = CausalCurves.load(found.save(tmp_path / "curves.json.gz"))
        assert read.frame().equals(found.frame())
        assert (read.heads, read.ks, read.ablation) == (found.heads, found.ks, found.ablation)
        assert read.references == found.references
        assert repr(read) == repr(found)
    with pytest.raises(LofitLensError, match="causal curves"):
        CausalCurves.load(tmp_path / "nothing.json.gz")


def test_a_short_text_and_a_table_stand_for_the_curves_in_a_notebook() -> None:
    assert repr(built()) == (
        "CausalCurves(things, test: MC2 of an edit, ablation='unedited', K = 0, 1, 2, 4; 4 random draws)"
    )
    html = built()._repr_html_()
    for curve in CURVES:
        assert f">{curve}</th>" in html
    assert f"edited {built().references['edited']}" in html
    assert "*</td>" in html


def test_the_figure_has_a_line_and_a_band_for_chosen_and_random_heads_in_each_panel() -> None:
    found = built()
    frame = found.frame()
    figure: Any = found.plot()
    lines = [trace for trace in figure.data if trace.hovertext is not None]
    assert len(lines) == 4
    assert len(figure.data) == 12
    parts = [(curve, heads) for curve in CURVES for heads in (CHOSEN, RANDOM)]
    for place, (curve, heads) in enumerate(parts):
        rows = frame[(frame["curve"] == curve) & (frame["heads"] == heads)]
        low, high, line = figure.data[3 * place : 3 * place + 3]
        assert line.name == heads
        assert list(line.x) == ["0", "1", "2", "4"]
        assert list(line.y) == pytest.approx((100 * rows["value"]).tolist())
        assert list(line.text) == rows["mark"].tolist()
        assert list(low.y) == pytest.approx((100 * rows["low"]).tolist())
        assert list(high.y) == pytest.approx((100 * rows["high"]).tolist())
        assert high.fill == "tonexty"
        assert line.xaxis == ("x" if curve == "necessity" else "x2")
    assert "Holm" in lines[0].hovertext[1]
    assert "Holm" not in lines[0].hovertext[0]
    assert {trace.line.dash for trace in lines} == {"solid", "dash"}
    assert [trace.showlegend for trace in lines] == [True, True, False, False]


def test_the_figure_names_what_is_done_and_the_scores_of_the_whole_model() -> None:
    figure: Any = built().plot()
    texts = [annotation.text for annotation in figure.layout.annotations]
    assert any(t.startswith("<b>Necessity</b>") and "unedited" in t for t in texts)
    assert any(t.startswith("<b>Sufficiency</b>") and "edited" in t for t in texts)
    value = {name: 100 * e.value for name, e in built().references.items()}
    assert f"edited {value['edited']:.1f}" in texts
    assert f"unedited {value['unedited']:.1f}" in texts
    lines = [shape for shape in figure.layout.shapes if shape.type == "line"]
    assert sorted({line.y0 for line in lines}) == sorted(value.values())
    assert {line.line.color for line in lines} == {NEUTRAL}
    assert figure.layout.template == TEMPLATE
    alone: Any = built(edited=False).plot()
    assert len([s for s in alone.layout.shapes if s.type == "line"]) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": NONE}, "no heads"),
        ({"ks": []}, "rising numbers"),
        ({"ks": [0, 5]}, "0 to 4"),
        ({"ks": [2, 1]}, "rising numbers"),
        ({"ks": [-1, 1]}, "0 to 4"),
        ({"draws": 0}, "draws must be a whole number of at least 1"),
        ({"ablation": "unedited"}, "without an edit"),
    ],
)
def test_options_out_of_range_are_refused(
    options: dict[str, Any], message: str, llama: TransformerBridge
) -> None:
    heads = options.pop("heads", some_heads())
    with pytest.raises(LofitLensError, match=message):
        causal_curves(llama, things(), heads, progress=False, **options)


def test_heads_of_another_model_are_refused(llama: TransformerBridge) -> None:
    wrong = HeadSet([(3, 0)], n_layers=4, n_heads=N_HEADS)
    with pytest.raises(ModelMismatchError, match="4 layers"):
        curves(llama, wrong)


@pytest.mark.parametrize("ablation", ["unedited", "mean", "zero"])
def test_a_scoped_edit_is_refused_before_the_model_runs(
    ablation: Any, llama: TransformerBridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    scoped = draw_edit(llama, scope="last")
    monkeypatch.setattr(llama.original_model, "forward", None)
    with pytest.raises(UnsupportedError, match="all token positions"):
        curves(llama, edit=scoped, ablation=ablation)


def test_numbers_of_heads_may_be_integers_of_numpy(
    llama: TransformerBridge, tmp_path: Path
) -> None:
    found = curves(llama, ablation="zero", ks=list(np.array([1, 2])))
    assert CausalCurves.load(found.save(tmp_path / "curves.json.gz")).ks == (1, 2)
    with type_checks_off(), pytest.raises(TypeError):
        curves(llama, ks=[0.5])


def test_whole_layers_have_no_random_heads_to_be_tested_against() -> None:
    """The first two heads are layer 0; the third and fourth are half of layer 1."""
    made = built()
    heads = HeadSet([(0, 0), (0, 1), (1, 2), (1, 0)], n_layers=2, n_heads=4)
    half = replace(made, heads=heads).frame()
    layers = HeadSet([(0, 0), (0, 1), (1, 1), (1, 0)], n_layers=2, n_heads=2)
    whole = replace(made, heads=layers).frame()
    for curve in CURVES:
        tested = half[half["p"].notna() & (half["curve"] == curve)]
        assert tested["k"].tolist() == [1, 2, 4]
        rows = whole[whole["curve"] == curve].reset_index()
        assert rows["k"][rows["p"].notna()].tolist() == [1]
        assert (rows["p_holm"].dropna() == rows["p"].dropna()).all()  # the only test of the curve


def test_random_rankings_of_whole_layers_are_the_chosen_heads() -> None:
    ranking = HeadSet([(1, 0), (1, 3), (1, 1), (1, 2)], n_layers=N_LAYERS, n_heads=N_HEADS)
    for seed in range(10):
        assert set(others_like(ranking, seed=seed)) == set(ranking)
    frame = replace(built(), heads=ranking).frame()
    assert frame["k"][frame["p"].notna()].tolist() == [1, 2] * 2


def test_an_unknown_ablation_is_refused(llama: TransformerBridge) -> None:
    with type_checks_off(), pytest.raises(LofitLensError, match="mean, zero, unedited"):
        curves(llama, ablation="resample")


@torch.no_grad()
def test_a_bias_on_one_planted_head_is_found_by_both_curves(llama: TransformerBridge) -> None:
    """An edit that acts on one head has its whole effect at the K at which that head comes in."""
    bias = 8 * torch.ones(1, llama.cfg.d_head)
    edit = HeadIntervention(some_heads((1, 2)), bias=bias)
    ranking = some_heads((1, 0), (1, 2), (1, 1))
    found = curves(llama, ranking, edit=edit, ks=[1, 2, 3], draws=1)
    assert found.edited is not None
    # other heads of the layer read the same as without the edit: they carry nothing of it
    np.testing.assert_allclose(found.scores["sufficiency"][0, 0], found.unedited, atol=1e-6)
    np.testing.assert_allclose(found.scores["necessity"][0, 0], found.edited, atol=1e-6)
    for place in (1, 2):
        np.testing.assert_allclose(found.scores["sufficiency"][0, place], found.edited, atol=1e-6)
        np.testing.assert_allclose(found.scores["necessity"][0, place], found.unedited, atol=1e-6)
    assert np.abs(found.edited - found.unedited).max() > 0.01
