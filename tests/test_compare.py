"""The protocol: every method fitted without the test, scored alike, its cost measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from lofit_lens.analysis.baselines.contrast_edit import ContrastIntervention
from lofit_lens.analysis.kinds.compare import compare
from lofit_lens.analysis.kinds.comparison import Comparison
from lofit_lens.analysis.measure.effect import check_effect
from lofit_lens.analysis.measure.side_effects import sample_texts
from lofit_lens.analysis.methods.names import ALIASES, named_methods
from lofit_lens.analysis.methods.settings import Leaky, Settings
from lofit_lens.analysis.methods.whole import SHOTS, WHOLE
from lofit_lens.analysis.study.cell import base_name
from lofit_lens.analysis.study.fitted import Fitted
from lofit_lens.analysis.study.record import Record
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.embedded.settings import SELECTION, TUNING
from lofit_lens.embedded.world import Ability
from lofit_lens.errors import LeakError, LofitLensError, ScoringError
from lofit_lens.fast.switches import shortcuts
from lofit_lens.heads import HeadSet
from lofit_lens.model import load_model
from lofit_lens.scoring.evaluate import evaluate
from lofit_lens.tasks import Example, Task
from lofit_lens.tasks.embedded import embedded
from lofit_lens.tokens import EncodedText, Encoder
from tests.helpers import count_hooks

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

SETTINGS = Settings(
    k=6,
    selection=replace(SELECTION, epochs=1),
    tuning=replace(TUNING, epochs=1),
    batch_size=256,
)
CROSSED = ("lofit/mass-mean", "lofit/probe@last", "probes/bias", "attribution/scale@after_prompt")
PROMPTED = ("prompt", *(f"few-shot-{n}" for n in SHOTS))
NAMES = (*ALIASES, *(name for name in WHOLE if name not in PROMPTED), *CROSSED)


@pytest.fixture(scope="module")
def model() -> TransformerBridge:
    return load_model("embedded", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def texts(model: TransformerBridge) -> Sequence[EncodedText]:
    return sample_texts(model, n=8, tokens=16)


@pytest.fixture(scope="module")
def run(model: TransformerBridge, texts: Sequence[EncodedText]) -> Callable[..., Comparison]:
    """`compare` on a small task and a few texts."""

    def with_defaults(tasks: Sequence[Task] = (), **arguments: Any) -> Comparison:
        shared = {"settings": SETTINGS, "texts": texts, "progress": False}
        return compare(model, tasks or [small()], **(shared | arguments))

    return with_defaults


@cache
def small(ability: Ability = "kinship") -> Task:
    """A task of the embedded model, cut to a few items."""
    task = embedded(ability)
    val = task.val[::8]
    return replace(task, train=task.train[::5], val=val, val_as_test=val, test=task.test[::10])


def shift(model: TransformerBridge, size: float) -> HeadIntervention:
    every = HeadSet.every(n_layers=model.cfg.n_layers, n_heads=model.cfg.n_heads)
    drawn = torch.randn(len(every), model.cfg.d_head, generator=torch.Generator().manual_seed(0))
    return HeadIntervention(every, bias=size * drawn)


def shifting(model: TransformerBridge, _task: Task, seed: int) -> Fitted:
    return Fitted(shift(model, 1.0 + seed), {"size": 1.0 + seed})


@pytest.mark.parametrize("name", NAMES)
def test_every_named_method_makes_an_edit_that_can_be_scored_and_leaves_nothing_behind(
    name: str, model: TransformerBridge, run: Callable[..., Comparison]
) -> None:
    hooks = count_hooks(model)
    before, scored = run(methods=[name]).runs
    assert scored.method == name
    assert scored.cost.fit_tokens > 0
    assert scored.cost.score_tokens > 0
    assert scored.side_effects["kl"] > 0
    assert evaluate(model, small(), progress=False).records == before.evaluation.records
    assert count_hooks(model) == hooks


def test_zero_shot_is_scored_once_and_the_others_with_every_seed(
    run: Callable[..., Comparison],
) -> None:
    table = run(methods={"shift": shifting}, seeds=(1, 2))
    assert [(run.method, run.seed) for run in table.runs] == [
        ("zero-shot", 1), ("shift", 1), ("shift", 2),
    ]  # fmt: skip
    assert [run.choices for run in table.runs[1:]] == [{"size": 2.0}, {"size": 3.0}]
    assert table.runs[0].cost.parameters == 0
    assert table.runs[0].side_effects["kl"] == 0
    assert table.runs[1].cost.parameters == 4 * 16 * 8


def test_folds_of_one_protocol_are_one_task_and_protocols_are_two() -> None:
    fold: dict[str, Any] = {"name": "truthfulqa", "fold": 1}
    task = replace(embedded("kinship"), name="truthfulqa:1", source=fold)
    assert base_name(task) == "truthfulqa"
    harness = replace(task, source=fold | {"protocol": "lm-eval"})
    assert base_name(harness) == "truthfulqa:lm-eval"
    assert base_name(replace(task, source={"name": "file.csv"})) == "truthfulqa:1"


def test_a_method_that_reads_the_test_split_is_stopped(run: Callable[..., Comparison]) -> None:
    def cheat(model: TransformerBridge, task: Task, seed: int) -> Fitted:
        return Fitted(shift(model, float(len(task.test))))

    def choose(model: TransformerBridge, task: Task, seed: int) -> Fitted:
        edits = [shift(model, size) for size in (1.0, 2.0)]
        scores = [evaluate(model, task, edit, progress=False).main.value for edit in edits]
        return Fitted(edits[scores.index(max(scores))])

    for method in (cheat, choose):
        with pytest.raises(LeakError, match="test split") as stopped:
            run(methods={"cheat": method})
        assert "method cheat on embedded:kinship with seed 42" in stopped.value.__notes__[0]
        with pytest.raises(LeakError):
            run(methods={"cheat": method}, on_failure=print)
    named = {"known leak": Leaky(cheat, "the number of test items")}
    assert run(methods=named).methods == ("zero-shot", "known leak")


def test_a_task_whose_test_items_are_trained_on_is_refused(run: Callable[..., Comparison]) -> None:
    task = small()
    leaking = replace(task, train=(*task.train, replace(task.test[0], id="copied")))
    with pytest.raises(LeakError):
        run([leaking], methods={"shift": shifting})


def test_an_edit_that_leaves_every_scored_token_unchanged_is_refused(
    model: TransformerBridge, texts: Sequence[EncodedText]
) -> None:
    def nothing(model: TransformerBridge, task: Task, seed: int) -> Fitted:
        return Fitted(shift(model, 0.0))

    for ability in ("truth", "kinship"):
        with pytest.raises(ScoringError, match="changed none"):
            compare(
                model, [small(ability)], {"no": nothing}, settings=SETTINGS, texts=texts,
                progress=False,
            )  # fmt: skip


def test_an_edit_that_only_changes_how_texts_are_batched_is_refused_as_well(
    model: TransformerBridge, texts: Sequence[EncodedText]
) -> None:
    """Contrast vectors share no prefix, so their scores differ by rounding from those that do."""
    task = small("truth")
    primer = "Q: What is the capital of Spain? A: Madrid Q: " * 2
    test = tuple(replace(e, prompt=primer + e.prompt) for e in task.test)
    val = tuple(replace(e, prompt=primer + e.prompt) for e in task.val)
    task = replace(task, test=test, val_as_test=val)

    def contrast(alpha: float) -> Callable[..., Fitted]:
        edit = ContrastIntervention("Be right. ", "Guess. ", (1,), n_layers=4, alpha=alpha)
        return lambda *_: Fitted(edit)

    def call(alpha: float) -> Comparison:
        return compare(
            model, [task], {"c": contrast(alpha)}, settings=SETTINGS, texts=texts, progress=False
        )

    with pytest.raises(ScoringError, match="changed none"):
        call(0.0)
    assert call(1.0).methods == ("zero-shot", "c")


def test_a_method_that_fails_is_left_out_and_the_others_go_on(
    run: Callable[..., Comparison],
) -> None:
    def fail(model: TransformerBridge, task: Task, seed: int) -> Fitted:
        if seed == 2:
            raise LofitLensError("It did not work.")
        return shifting(model, task, seed)

    told: list[LofitLensError] = []
    methods = {"bad": fail, "good": shifting}
    table = run(methods=methods, seeds=(1, 2, 3), on_failure=told.append)
    assert table.methods == ("zero-shot", "good")
    assert len(told) == 1
    assert "method bad on embedded:kinship with seed 2" in told[0].__notes__[0]
    with pytest.raises(LofitLensError, match="did not work"):
        run(methods=methods, seeds=(1, 2, 3))


def test_several_draws_for_a_seed_are_averaged(run: Callable[..., Comparison]) -> None:
    drawn = run(methods=["random-heads"], settings=replace(SETTINGS, random_draws=3))
    runs = [r for r in drawn.runs if r.method == "random-heads"]
    assert len({str(r.heads) for r in runs}) == 3
    mean = sum(r.evaluation.main.value for r in runs) / 3
    assert drawn.table("random-heads", "embedded:kinship").mean() == pytest.approx(mean)


def test_a_file_of_heads_gives_just_its_heads(
    run: Callable[..., Comparison], tmp_path: Path
) -> None:
    heads = HeadSet([(3, 1), (0, 2)], n_layers=4, n_heads=16)
    table = run(methods=[f"{heads.save(tmp_path / 'mine.json')}/bias"])
    assert table.runs[-1].heads == heads


def test_iti_compat_is_refused_where_answers_are_too_short_for_it(
    model: TransformerBridge,
) -> None:
    task = small("truth")
    one_token = tuple(
        Example(e.id, f"{e.prompt} It", (" eats",), (" sleeps",), e.group) for e in task.test
    )
    task = replace(task, test=one_token, val_as_test=one_token[:2])
    encoder = Encoder(model)
    assert all(encoder.continuation(e.prompt, e.correct[0]).n_answer <= 2 for e in one_token)
    before = evaluate(model, task, progress=False)
    after = evaluate(model, task, shift(model, 3.0).with_scope("iti_compat"), progress=False)
    with pytest.raises(ScoringError, match="iti_compat"):
        check_effect(task.scoring, before, after, kl=1.0)
    after = evaluate(model, task, shift(model, 3.0).with_scope("after_prompt"), progress=False)
    check_effect(task.scoring, before, after, kl=1.0)


def test_iti_compat_and_all_both_move_multiple_choice_and_differ(
    model: TransformerBridge, texts: Sequence[EncodedText]
) -> None:
    table = compare(
        model, [embedded("truth")], ["iti@all", "iti@iti_compat"],
        settings=replace(SETTINGS, k=16), texts=texts, progress=False,
    )  # fmt: skip
    zero_shot, at_all, compat = (run.evaluation for run in table.runs)
    for metric in ("MC1", "MC2"):
        values = {e.metrics[metric].value for e in (zero_shot, at_all, compat)}
        assert len(values) == 3, metric


def test_finished_runs_are_not_run_again_and_must_be_of_the_same_protocol(
    run: Callable[..., Comparison], texts: Sequence[EncodedText], tmp_path: Path
) -> None:
    other_model = load_model("embedded", device="cpu", dtype="float32")
    for parameter in other_model.parameters():
        parameter.data *= 1.01
    new: list[Record] = []
    first = run(methods=["random-heads"], on_run=new.append)
    assert len(new) == 2
    done = [Record.load(r.save(tmp_path / f"{r.name}.json.gz")) for r in new]
    new.clear()
    again = run(methods=["random-heads", "random/scale"], done=done, on_run=new.append)
    assert [r.method for r in new] == ["random/scale"]
    values = [
        table.frame().query("method == 'random-heads'")["value"].tolist()
        for table in (first, again)
    ]
    assert values[0] == values[1]
    faster = replace(SETTINGS, tuning=replace(SETTINGS.tuning, learning_rate=0.5))
    for change, what in (
        ({"settings": replace(SETTINGS, k=2)}, r"random-heads on .* other recipe\.k\."),
        ({"settings": faster}, r"random-heads on .* other recipe\.tuning\.learning_rate\."),
        ({"texts": ()}, "with other texts"),
        ({"n_answers": 2}, "with other n_answers"),
    ):
        with pytest.raises(LofitLensError, match=what):
            run(methods=["random-heads"], done=done, **change)
    with pytest.raises(LofitLensError, match="with other model"):
        compare(
            other_model, [small()], ["random-heads"], settings=SETTINGS, done=done,
            texts=texts, progress=False,
        )  # fmt: skip
    more = run(methods=["random-heads"], seeds=(7,), done=done)
    assert [(r.method, r.seed) for r in more.runs] == [("zero-shot", 42), ("random-heads", 7)]


def test_a_finished_function_of_ones_own_does_not_depend_on_the_settings(
    run: Callable[..., Comparison],
) -> None:
    done = run(methods={"shift": shifting}).runs
    new: list[Record] = []
    other = replace(SETTINGS, k=2, tuning=replace(SETTINGS.tuning, learning_rate=0.5))
    again = run(methods={"shift": shifting}, settings=other, done=done, on_run=new.append)
    assert again.runs == done and not new
    with pytest.raises(LofitLensError, match="with other texts"):
        run(methods={"shift": shifting}, texts=(), done=done)


def test_tokens_are_counted_as_they_enter_the_model(
    model: TransformerBridge, texts: Sequence[EncodedText]
) -> None:
    task = small("truth")
    (run,) = compare(model, [task], [], settings=SETTINGS, texts=texts, progress=False).runs
    with shortcuts(False):
        (plain,) = compare(model, [task], [], settings=SETTINGS, texts=texts, progress=False).runs
    encoder = Encoder(model)
    lengths = [
        len(text.ids)
        for example in task.test
        for text in encoder.candidates(example.prompt, (*example.correct, *example.incorrect))
    ]
    assert run.cost.fit_tokens == 0
    assert max(lengths) * len(lengths) >= plain.cost.score_tokens >= sum(lengths)
    assert 0 < run.cost.score_tokens < 0.6 * sum(lengths)  # candidates share their prompts


def test_open_answers_are_kept_and_refusals_counted_for_multiple_choice(
    run: Callable[..., Comparison],
) -> None:
    tasks = [small("truth"), small("kinship")]
    table = run(tasks, methods={"shift": shifting}, n_answers=3)
    by_task = {run.task: run for run in table.runs if run.method == "shift"}
    assert len(by_task["embedded:truth"].answers) == 3
    assert 0 <= by_task["embedded:truth"].side_effects["refusals"] <= 1
    assert not by_task["embedded:kinship"].answers


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["lofti"], "no method 'lofti'"),
        (["lofit/sideways"], "no method"),
        (["lofit@everywhere"], "scope must be one of"),
        (["lora@last"], "lora@all"),
        (["iti", "iti"], "once"),
    ],
)
def test_a_wrong_name_is_told_before_anything_is_fitted(names: list[str], message: str) -> None:
    with pytest.raises(LofitLensError, match=message):
        named_methods(names, SETTINGS)


def test_a_method_of_another_scope_is_fitted_and_scored_in_it(model: TransformerBridge) -> None:
    methods = named_methods(["lofit@last", "iti@iti_compat", "repe-reading"], SETTINGS)
    scopes = [method(model, small(), 0).edit.scope for method in methods.values()]  # pyright: ignore
    assert scopes == ["last", "iti_compat", "all"]
