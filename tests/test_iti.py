from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lofit_lens import evaluate, load_model, tasks
from lofit_lens.analysis.baselines.activations import last_z
from lofit_lens.analysis.baselines.directions import stored_contrast, streamed_contrast
from lofit_lens.analysis.baselines.iti import ITI, fit_iti
from lofit_lens.analysis.baselines.iti_config import ITIConfig
from lofit_lens.analysis.baselines.statements import all_statements
from lofit_lens.analysis.baselines.validation import choose_on_validation
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.errors import LofitLensError
from lofit_lens.heads import HeadSet
from lofit_lens.tasks import ExactMatch, Example, MultipleChoice, Task
from lofit_lens.tokens import Encoder
from tests.helpers import (
    SOME_HEADS,
    assert_same_logits,
    draw_edit,
    draw_tokens,
    edited_plain,
    load_plain,
)

ONE = ITIConfig(alphas=(5.0,), ks=(2,))
"""Nothing to choose."""


@pytest.fixture(scope="module")
def embedded() -> Any:
    return load_model("embedded", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def truth() -> Task:
    """The embedded truth task, a few items of each split."""
    task = tasks.embedded("truth")
    val = task.val[:16]
    return replace(task, train=task.train[:48], val=val, test=task.test[:24], val_as_test=val)


def toy(n: int = 48, *, exact: bool = False) -> Task:
    """Questions with an answer that ends in "x" when right and in "y" when wrong."""
    rng = random.Random(0)
    words = ["blue", "grey", "old", "red", "house", "cat"]

    def example(i: int) -> Example:
        prompt = f"Q: the {' '.join(rng.choices(words, k=4))}?\nA:"
        stem = " " + " ".join(rng.choices(words, k=2))
        return Example(str(i), prompt, (stem + " x",), () if exact else (stem + " y",), str(i))

    parts = [tuple(example(i) for i in range(a, a + n)) for a in (0, 100, 200)]
    scoring = ExactMatch(max_new_tokens=2) if exact else MultipleChoice(("MC1", "MC2"))
    objective = "sft" if exact else "dpo"
    return Task("toy", parts[0], parts[1], parts[2], parts[1], objective, scoring)


def stored(model: Any, task: Task, *splits: str) -> tuple[np.ndarray, np.ndarray]:
    """Activations of the statements of some splits, and which are right."""
    pool = task.train + task.val
    found = [
        all_statements(Encoder(model), getattr(task, split), pool=pool, seed=0) for split in splits
    ]
    z = torch.cat([last_z(model, part.texts) for part in found])
    return z.double().numpy(), np.concatenate([part.right for part in found])


def test_the_shift_is_alpha_sigma_theta_of_the_stored_activations(llama: Any) -> None:
    task = toy()
    iti = fit_iti(llama, task, ONE, seed=0)
    z, right = stored(llama, task, "train", "val")
    edit = iti.edit()
    assert edit.bias is not None
    assert edit.scale is None
    for row, place in zip(edit.bias, iti.ranking.first(2), strict=True):
        at_head = z[:, *place]
        theta = at_head[right].mean(0) - at_head[~right].mean(0)
        theta /= np.linalg.norm(theta)
        sigma = (at_head @ theta).std()
        np.testing.assert_allclose(row.numpy(), 5.0 * sigma * theta, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_edited_model_computes_what_a_plain_hook_computes(
    family: str, tiny_model: Callable[[str], Any], tiny_folder: Callable[[str], Path]
) -> None:
    model, tokens = tiny_model(family), draw_tokens()
    iti = fit_iti(model, toy(12), ONE, seed=0)
    edit = iti.edit(heads=HeadSet(SOME_HEADS, n_layers=3, n_heads=4), alpha=3.0)
    layer, head = torch.tensor(SOME_HEADS).T
    z_shift = (3.0 * iti.sigma[..., None] * iti.directions)[layer, head]
    assert edit.bias is not None
    torch.testing.assert_close(edit.bias, z_shift.float())
    with edit.applied(model), torch.no_grad():
        found = model(tokens)
    plain = load_plain(tiny_folder(family))
    with edited_plain(plain, edit), torch.no_grad():
        assert_same_logits(found, plain(tokens).logits)


def test_streamed_statistics_equal_stored_ones(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    statements = all_statements(Encoder(llama), toy().train, pool=(), seed=0)
    z = last_z(llama, statements.texts)
    whole = stored_contrast(z, statements.right)
    for batch_size, joined in ((1, 1), (7, 20), (32, 256)):
        monkeypatch.setattr("lofit_lens.analysis.baselines.directions.JOINED", joined)
        streamed = streamed_contrast(llama, statements, batch_size=batch_size)
        assert streamed.all.count == len(z)
        torch.testing.assert_close(streamed.mass_mean(), whole.mass_mean(), rtol=1e-4, atol=1e-5)
        found = streamed.all.std_along(whole.mass_mean())
        torch.testing.assert_close(found, whole.all.std_along(whole.mass_mean()), rtol=1e-4, atol=0)


def test_given_heads_need_no_probes_and_get_the_same_directions(
    llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = fit_iti(llama, toy(), ONE, seed=0)
    monkeypatch.setattr("lofit_lens.analysis.baselines.iti.last_z", None)  # nothing is stored
    heads = HeadSet(SOME_HEADS, n_layers=3, n_heads=4)
    config = ITIConfig(alphas=(5.0,))
    iti = fit_iti(llama, toy(), config, seed=0, heads=heads)
    assert iti.scores is None
    assert iti.ranking == heads
    assert iti.k == len(heads)
    torch.testing.assert_close(iti.directions, full.directions, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(iti.sigma, full.sigma, rtol=1e-4, atol=0)


def test_the_direction_of_the_probe_needs_no_ranking(llama: Any) -> None:
    heads = HeadSet(SOME_HEADS, n_layers=3, n_heads=4)
    iti = fit_iti(llama, toy(), replace(ONE, direction="probe"), seed=0, heads=heads)
    assert iti.ranking == heads
    assert iti.scores is not None
    torch.testing.assert_close(iti.directions.norm(dim=-1), torch.ones(3, 4).double())
    z, right = stored(llama, toy(), "train")
    along = np.einsum("nlhd,lhd->nlh", z, iti.directions.numpy())
    assert (along[right].mean(0) > along[~right].mean(0)).all()


def test_random_directions_keep_the_heads_of_the_probes(llama: Any) -> None:
    found = [
        fit_iti(llama, toy(), replace(ONE, direction=direction), seed=0)
        for direction in ("mass-mean", "random", "random")
    ]
    assert found[0].ranking == found[1].ranking
    assert torch.equal(found[1].directions, found[2].directions)
    assert found[1].directions.shape[-1] == llama.cfg.d_head
    assert not torch.allclose(found[0].directions, found[1].directions)


def test_a_planted_head_ranks_first(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Activations are noise but for one head, which is shifted by what the statement says."""
    planted, shift = (1, 2), torch.randn(24, generator=torch.Generator().manual_seed(5))

    def planted_z(model: Any, texts: Any, *, batch_size: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(len(texts))
        z = torch.randn(len(texts), 3, 4, 24, generator=generator)
        tokens = [Encoder(model).decode([text.ids[-1]]) for text in texts]
        z[[t.endswith("x") for t in tokens], *planted] += 2 * shift
        return z

    monkeypatch.setattr("lofit_lens.analysis.baselines.iti.last_z", planted_z)
    iti = fit_iti(llama, toy(), ONE, seed=0)
    assert tuple(iti.ranking.heads[0]) == planted
    assert iti.scores is not None
    assert iti.scores.scores.argmax() == planted[0] * 4 + planted[1]
    assert torch.cosine_similarity(iti.directions[planted], shift.double(), dim=0) > 0.95


def test_a_planted_writer_is_found_through_the_model(llama: Any) -> None:
    """With heads of layer 0 all zeroed but one, only that one can tell right from wrong there."""
    dead = HeadSet([(0, 0), (0, 2), (0, 3)], n_layers=3, n_heads=4)
    zeroed = HeadIntervention(dead, scale=-torch.ones(3, llama.cfg.d_head))
    with zeroed.applied(llama):
        iti = fit_iti(llama, toy(), ONE, seed=0)
    assert iti.probe_scores is not None
    assert iti.probe_scores.accuracy[0, 1] > 0.9
    assert iti.probe_scores.accuracy[0, [0, 2, 3]].tolist() == [0.5] * 3
    assert not {(0, 0), (0, 2), (0, 3)} & {tuple(head) for head in iti.ranking.first(9)}


def test_sigma_reads_the_test_only_by_its_legacy_name(llama: Any) -> None:
    task = toy()
    other = replace(task, test=tuple(replace(e, prompt="Q: Anna?\nA:") for e in task.test))
    trained = [fit_iti(llama, t, ONE, seed=0) for t in (task, other)]
    assert torch.equal(trained[0].sigma, trained[1].sigma)
    legacy = replace(ONE, sigma="legacy")
    leaked = [fit_iti(llama, t, legacy, seed=0) for t in (task, other)]
    assert not torch.allclose(leaked[0].sigma, leaked[1].sigma)
    assert torch.equal(leaked[0].directions, trained[0].directions)
    z, _ = stored(llama, task, "train", "val", "test")
    expected = np.einsum("nlhd,lhd->nlh", z, leaked[0].directions.numpy()).std(0)
    np.testing.assert_allclose(leaked[0].sigma.numpy(), expected, rtol=1e-5)


def test_a_sealed_task_is_fitted_by_default_and_refused_with_the_leak(llama: Any) -> None:
    from lofit_lens.analysis.measure.leaks import sealed

    task = sealed(toy(8))
    fit_iti(llama, task, replace(ONE, alphas=(1.0, 2.0)), seed=0)
    with pytest.raises(LofitLensError, match="test split"):
        fit_iti(llama, task, ITIConfig.legacy(k=2), seed=0)


def test_exact_match_items_are_contrasted_with_drawn_answers(llama: Any) -> None:
    found = [fit_iti(llama, toy(exact=True), ONE, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(found[0].directions, found[1].directions)
    assert not torch.equal(found[0].directions, found[2].directions)


def test_a_split_with_one_answer_gets_wrong_ones_from_train_and_val(llama: Any) -> None:
    task = toy(8, exact=True)
    one = task.val[0].correct
    alike = tuple(replace(example, correct=one) for example in task.val)
    task = replace(task, val=alike, val_as_test=alike)
    assert fit_iti(llama, task, ONE, seed=0).scores is not None
    unlike = replace(task, test=tuple(replace(e, correct=(" leaked",)) for e in task.test))
    texts = all_statements(
        Encoder(llama), unlike.test, pool=unlike.train + unlike.val, seed=0
    ).texts  # as the legacy sigma reads them
    assert sum("leaked" in Encoder(llama).decode(text.ids) for text in texts) == len(texts) // 2
    fit_iti(llama, unlike, replace(ONE, sigma="legacy"), seed=0)


def test_both_scopes_move_multiple_choice_and_differ(embedded: Any, truth: Task) -> None:
    base = evaluate(embedded, truth, progress=False)
    config = ITIConfig(ks=(4,), alphas=(8.0,))
    iti = fit_iti(embedded, truth, config, seed=0)
    found = {}
    for scope in ("all", "iti_compat"):
        edit = iti.edit().with_scope(scope)
        found[scope] = evaluate(embedded, truth, edit, progress=False)
        assert found[scope].metrics["MC2"].value != base.metrics["MC2"].value
    mc2 = {scope: result.metrics["MC2"].value for scope, result in found.items()}
    assert mc2["all"] != mc2["iti_compat"]
    assert found["all"].main.value > base.main.value


def test_alpha_and_k_are_those_of_the_best_validation_score(embedded: Any, truth: Task) -> None:
    config = ITIConfig(ks=(1, 4), alphas=(0.5, 8.0))
    iti = fit_iti(embedded, truth, config, seed=0)
    assert {trial.key for trial in iti.trials} == {(1, 0.5), (1, 8.0), (4, 0.5), (4, 8.0)}
    for trial in iti.trials:
        k, alpha = trial.key
        edit = iti.edit(k=k, alpha=alpha)
        expected = evaluate(embedded, truth, edit, split="val", progress=False).main.value
        assert trial.score == expected
    best = max(trial.score for trial in iti.trials if trial.score is not None)
    first = next(trial for trial in iti.trials if trial.score == best)
    assert (iti.k, iti.alpha) == first.key
    sizes = [iti.edit(k=t.key[0], alpha=t.key[1]).bias.norm().item() for t in iti.trials]  # type: ignore[union-attr]
    assert sizes == sorted(sizes)


def test_the_chosen_edit_remembers_where_it_comes_from(llama: Any) -> None:
    iti = fit_iti(llama, toy(8), replace(ONE, alphas=(1.0, 2.0)), seed=7)
    origin = iti.edit().provenance
    assert origin is not None
    assert origin.task == "toy"
    assert origin.config["seed"] == 7
    assert origin.config["alpha"] == iti.alpha
    assert origin.config["k"] == 2
    assert iti.scores is not None
    assert iti.scores.method == "iti"
    assert iti.frame().columns.tolist() == [
        "rank", "layer", "head", "name", "sigma", "accuracy", "log_loss",
    ]  # fmt: skip
    assert "k=2" in repr(iti)


def test_k_and_heads_together_are_refused(llama: Any) -> None:
    iti: ITI = fit_iti(llama, toy(8), ONE, seed=0)
    with pytest.raises(LofitLensError, match="not both"):
        iti.edit(k=2, heads=iti.ranking)
    with pytest.raises(LofitLensError, match="from 1 to 12"):
        fit_iti(llama, toy(8), ITIConfig(ks=(13,)), seed=0)
    with pytest.raises(LofitLensError, match="layers"):
        fit_iti(llama, toy(8), ONE, seed=0, heads=HeadSet([(0, 0)], n_layers=9, n_heads=4))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"direction": "pca"}, "direction must be one of mass-mean, probe, random, got 'pca'"),
        ({"sigma": "test"}, "sigma must be one of"),
        ({"scope": "first"}, "scope must be one of"),
        ({"alphas": ()}, "alphas must be"),
        ({"alphas": (1.0, float("nan"))}, "alphas must be"),
        ({"ks": ()}, "ks must be"),
        ({"ks": (0, 4)}, "ks must be"),
        ({"fraction": 3.0}, "fraction must be"),
        ({"kl_budget": 0.0}, "kl_budget must be greater than 0, got 0.0"),
        ({"kl_budget": float("nan")}, "kl_budget must be"),
    ],
)
def test_a_wrong_setting_is_named(wrong: dict[str, Any], message: str) -> None:
    from tests.helpers import type_checks_off

    with type_checks_off(), pytest.raises(LofitLensError, match=message):
        ITIConfig(**wrong)


def test_the_released_setting_is_a_preset() -> None:
    config = ITIConfig.legacy()
    assert (config.alphas, config.ks, config.sigma) == ((15.0,), (48,), "legacy")
    assert config.scope == "iti_compat"
    assert (ITIConfig.legacy(k=None).ks, config.fraction) == (None, 0.03)


class TestChoosingOnValidation:
    def edits(self, model: Any) -> dict[str, HeadIntervention]:
        edit = draw_edit(model, scale=False)
        return {name: size * edit for name, size in (("none", 0.0), ("again", 0.0), ("big", 3.0))}

    def test_the_best_wins_and_ties_go_to_the_first(
        self, llama: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given = {"worse": 0.2, "best": 0.7, "as good": 0.7, "between": 0.5}
        scores = iter(given.values())

        def scored(*_: Any, **__: Any) -> Any:
            return SimpleNamespace(main=SimpleNamespace(value=next(scores)))

        monkeypatch.setattr("lofit_lens.analysis.baselines.validation.evaluate", scored)
        choice = choose_on_validation(llama, toy(4), {name: draw_edit(llama) for name in given})
        assert choice.key == "best"
        assert {trial.key: trial.score for trial in choice.trials} == given
        assert choice.frame()["chosen"].tolist() == [False, True, False, False]
        assert choice.to_json()[0] == {"key": "worse", "score": 0.2, "kl": None}

    def test_the_test_is_not_read(self, llama: Any) -> None:
        task = toy(12)
        other = replace(task, test=task.val[:1])
        edits = self.edits(llama)
        found = [choose_on_validation(llama, t, edits).to_json() for t in (task, other)]
        assert found[0] == found[1]

    def test_a_budget_keeps_candidates_out(self, llama: Any) -> None:
        edits = self.edits(llama)

        def kl(edit: Any) -> float:
            return float(edit.bias.norm())

        free = choose_on_validation(llama, toy(12), {"big": edits["big"]}, kl=kl)
        assert free.trials[0].kl == kl(edits["big"])
        kept = choose_on_validation(llama, toy(12), edits, kl=kl, kl_budget=0.1)
        assert kept.key == "none"
        assert len(kept.trials) == 3
        with pytest.raises(LofitLensError, match=r"within the KL budget of 0\.1; the nearest has"):
            choose_on_validation(llama, toy(12), {"big": edits["big"]}, kl=kl, kl_budget=0.1)
        with pytest.raises(LofitLensError, match="greater than 0, got -1"):
            choose_on_validation(llama, toy(12), edits, kl=kl, kl_budget=-1.0)
        with pytest.raises(LofitLensError, match="nothing measures"):
            choose_on_validation(llama, toy(12), edits, kl_budget=0.1)

    def test_a_candidate_that_blows_up_is_recorded_and_left_out(self, llama: Any) -> None:
        edits = self.edits(llama)
        overflow = torch.full((4, llama.cfg.d_head), 3e38)
        edits = {"burst": replace(edits["big"], bias=overflow), **edits}
        choice = choose_on_validation(llama, toy(12), edits)
        assert choice.trials[0].score is None
        assert choice.key != "burst"
        with pytest.raises(LofitLensError, match="not finite"):
            choose_on_validation(llama, toy(12), {"burst": edits["burst"]})

    def test_there_must_be_candidates(self, llama: Any) -> None:
        with pytest.raises(LofitLensError, match="at least one"):
            choose_on_validation(llama, toy(12), {})
