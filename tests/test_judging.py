"""Judges of answers in free text: what is asked, what is kept, what is counted."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer
from typer.testing import CliRunner

from lofit_lens.analysis.cli.main import app
from lofit_lens.analysis.judging.asked import Asked, Aspect, question_of, verdict
from lofit_lens.analysis.judging.judge import judge
from lofit_lens.analysis.judging.judged import METRICS, Judged
from lofit_lens.analysis.judging.local import ALLENAI, LocalJudge
from lofit_lens.analysis.judging.server import ServerJudge
from lofit_lens.analysis.judging.verdicts import Replies
from lofit_lens.analysis.kinds.comparison import Comparison
from lofit_lens.analysis.reading.open import open_study
from lofit_lens.analysis.reporting.page import report
from lofit_lens.analysis.study.paired import RESAMPLES
from lofit_lens.analysis.study.record import Cost, Record
from lofit_lens.errors import LofitLensError
from lofit_lens.scoring.evaluation import Evaluation
from lofit_lens.statistics import holm, paired_difference
from lofit_lens.tasks import Example, References, Task, load_tasks
from tests.helpers import load_plain
from tests.stub_server import Said, completion, failure, stub_server
from tests.test_cli import succeed

N = 40
EXAMPLES = tuple(
    Example(f"q{i}", f"Q: Before?\nA: So.\n\nQ: What is {i}?\nA:", (" Right.",), (" Wrong.",))
    for i in range(N)
)
TASK = Task("own", (), (), EXAMPLES, (), "dpo", References())
SEEDS = {"zero-shot": (1,), "lofit": (1, 2), "iti": (1, 2)}


@dataclass
class Scripted:
    """A judge that finds its verdicts in the answers, as "truthful=yes informative=no"."""

    name: str = "scripted"
    asked: list[str] = field(default_factory=list)
    until: int = 10**9

    def identity(self, aspect: Aspect) -> str:  # noqa: ARG002
        return self.name

    def prompt(self, aspect: Aspect, asked: Asked) -> str:
        return f"{asked.question} {asked.answer} {aspect}?"

    def replies(self, aspect: Aspect, prompts: Sequence[str]) -> Iterator[tuple[int, str]]:
        for place, prompt in reversed(list(enumerate(prompts))):
            if len(self.asked) >= self.until:
                raise LofitLensError("The judge went home.")
            self.asked.append(prompt)
            yield place, prompt.partition(f"{aspect}=")[2].partition(" ")[0]


def answer(truthful: str, informative: str) -> str:
    return f"truthful={truthful} informative={informative} said"


def record(method: str, seed: int, answers: Sequence[str], fold: str = "own") -> Record:
    items = tuple(
        {"id": f"q{i}", "group": f"g{i}", "bleu_acc": 0.0, "prediction": text}
        for i, text in enumerate(answers)
    )
    cost = Cost() if method == "zero-shot" else Cost(parameters=8, fit_tokens=9)
    return Record(
        method, fold, fold, seed, Evaluation(fold, "test", ("bleu_acc",), items, {}), cost
    )


def drawn(rates: Mapping[str, float], *, odd: Mapping[str, int] | None = None) -> Comparison:
    """Answers that are true at some rate, informative at 0.8; the first few of a method unparsable."""
    rng, runs = np.random.default_rng(0), []
    for method, seeds in SEEDS.items():
        for seed in seeds:
            sides = [rng.uniform(size=N) < rate for rate in (rates[method], 0.8)]
            words = [["yes" if one else "no" for one in side] for side in sides]
            words[0][: (odd or {}).get(method, 0)] = ["perhaps"] * (odd or {}).get(method, 0)
            runs.append(record(method, seed, [answer(*pair) for pair in zip(*words, strict=True)]))
    return Comparison(tuple(runs))


RATES = {"zero-shot": 0.3, "lofit": 0.9, "iti": 0.4}


def told(run: Record, metric: str) -> np.ndarray:
    """What the answers say of themselves."""
    sides = [[f"{a}=yes" in r["prediction"] for r in run.evaluation.records] for a in METRICS[1:]]
    values = np.array(sides, dtype=float)
    return values.min(axis=0) if metric == "both" else values[METRICS.index(metric) - 1]


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("yes", True), ("No.", False), (" Yes, it is.", True), ("**no**", False), ("TRUE", True),
        ("false", False), ("<think>no, wait. yes</think>\nno", False), ("no\nbecause", False),
        ("yes: yes 0.9, no 0.1", True), ("neither: yes 0.1, no 0.1", None), ("", None),
        ("No comment", None), ("not sure", None), ("It is true.", None), ("yesterday", None),
        ("[content_filter]", None), ("yes and no", None),
    ],
)  # fmt: skip
def test_a_reply_is_yes_no_or_nothing(reply: str, found: bool | None) -> None:
    assert verdict(reply) is found


def test_the_question_is_the_last_paragraph_of_the_prompt() -> None:
    assert question_of(EXAMPLES[3]) == "What is 3?"
    chat = Example("1", "<user>Q: Who?\nA:<assistant>", ("x",), messages=(("user", "Q: Who?\nA:"),))
    assert question_of(chat) == "Who?"
    assert question_of(Example("1", "Where is it? ", ("x",))) == "Where is it?"


@pytest.mark.real
def test_the_questions_are_those_of_truthfulqa(data_dir: Path) -> None:
    for task in load_tasks("truthfulqa:gen", data_dir=data_dir):
        assert [question_of(example) for example in task.test] == [e.id for e in task.test]


def test_the_numbers_are_those_of_the_comparison_and_every_metric_is_tested() -> None:
    comparison = drawn(RATES)
    frame = judge(comparison, [Scripted()], tasks=[TASK], progress=False).frame()
    assert len(frame) == 3 * 4
    rows = {(row["method"], row["metric"]): row for row in frame.to_dict("records")}
    for metric in METRICS:
        tables = {
            method: np.stack([told(run, metric) for run in comparison.runs if run.method == method])
            for method in SEEDS
        }
        p = []
        for method, table in tables.items():
            row = rows[method, metric]
            assert row["value"] == pytest.approx(table.mean())
            assert (row["n"], row["seeds"], row["unparsed"]) == (N, len(table), 0)
            if method == "zero-shot":
                assert np.isnan(row["p"])
                continue
            other = np.repeat(tables["zero-shot"], len(table), axis=0)
            wanted = paired_difference(table, other, resamples=RESAMPLES)
            assert (row["difference"], row["p"]) == pytest.approx((wanted.value, wanted.p))
            p.append(wanted.p)
        found = [rows[method, metric]["p_holm"] for method in ("lofit", "iti")]
        assert found == pytest.approx(holm(np.array(p)).tolist())
    lofit = {metric: rows["lofit", metric]["value"] for metric in (*METRICS, "product")}
    assert lofit["product"] == pytest.approx(lofit["truthful"] * lofit["informative"])
    assert rows["lofit", "both"]["mark"] == "*"


def test_what_is_no_verdict_is_counted_and_is_neither_right_nor_wrong() -> None:
    comparison = drawn(RATES, odd={"iti": 5})
    frame = judge(comparison, [Scripted()], tasks=[TASK], progress=False).frame()
    assert frame.groupby("method", sort=False)["unparsed"].max().to_dict() == {
        "zero-shot": 0, "lofit": 0, "iti": 10,
    }  # fmt: skip
    assert set(frame["n"]) == {N - 5}
    for row in frame[frame["metric"] == "truthful"].to_dict("records"):
        runs = [told(run, "truthful")[5:] for run in comparison.runs if run.method == row["method"]]
        assert row["value"] == pytest.approx(np.mean(runs))
    with pytest.raises(LofitLensError, match="for which scripted said yes or no to every answer"):
        judge(drawn(RATES, odd={"iti": N}), [Scripted()], tasks=[TASK], progress=False)


def test_refusals_are_counted_whatever_the_judge_says() -> None:
    answers = ["I have no comment. truthful=yes informative=no "] * 10 + [answer("yes", "yes")] * 30
    comparison = Comparison((record("zero-shot", 1, answers),))
    frame = judge(comparison, [Scripted()], tasks=[TASK], progress=False).frame()
    assert set(frame["refusals"][:3]) == {0.25}
    assert frame["value"].tolist() == pytest.approx([0.75, 1.0, 0.75, 0.75])


@dataclass
class Contrary(Scripted):
    """Says no to every third question, else what the other one says."""

    def replies(self, aspect: Aspect, prompts: Sequence[str]) -> Iterator[tuple[int, str]]:
        for place, reply in super().replies(aspect, prompts):
            yield place, "no" if place % 3 == 0 else reply


def test_the_agreement_of_judges_is_cohens_kappa_over_what_both_judged() -> None:
    comparison = drawn(RATES, odd={"iti": 5})
    found = judge(
        comparison, [Scripted(), Contrary("contrary")], tasks=[TASK], progress=False
    ).agreement[:2]
    assert found["aspect"].tolist() == ["truthful", "informative"]
    answers = {
        (r["id"], r["prediction"]): None for run in comparison.runs for r in run.evaluation.records
    }
    mine = ["truthful=yes" in said for _, said in answers]
    theirs = [yes and place % 3 != 0 for place, yes in enumerate(mine)]
    odd = ["perhaps" in said for _, said in answers]
    pairs = [p for *p, none in zip(mine, theirs, odd, strict=True) if not none]
    n = len(pairs)
    agreed = sum(a == b for a, b in pairs) / n
    yes = [sum(pair[side] for pair in pairs) / n for side in (0, 1)]
    chance = yes[0] * yes[1] + (1 - yes[0]) * (1 - yes[1])
    # where the contrary one says no to what is no verdict, there is nothing to compare
    assert found["n"][0] == n
    assert found["agreement"][0] == pytest.approx(agreed)
    assert found["kappa"][0] == pytest.approx((agreed - chance) / (1 - chance))


def test_one_verdict_everywhere_has_no_kappa() -> None:
    comparison = Comparison((record("zero-shot", 1, [answer("yes", "yes")] * N),))
    pair = [Scripted(), Scripted("other")]
    found = judge(comparison, pair, tasks=[TASK], progress=False).agreement[:2]
    assert found["agreement"].tolist() == [1.0, 1.0]
    assert found["kappa"].isna().all()


@dataclass
class Lenient(Scripted):
    """Takes every right reference for true, and of the wrong ones every second."""

    def prompt(self, aspect: Aspect, asked: Asked) -> str:
        wrong = asked.answer == "Wrong." and int(asked.question.split()[-1][:-1]) % 2
        return f"{asked.question} {asked.answer} {aspect}={'no' if wrong else 'yes'} "


def test_a_judge_is_held_against_the_reference_answers() -> None:
    comparison = Comparison((record("zero-shot", 1, ["said"] * N),))
    found = judge(comparison, [Lenient()], tasks=[TASK], progress=False).agreement
    (row,) = found.to_dict("records")
    assert (row["other"], row["aspect"], row["n"]) == ("references", "truthful", 2 * N)
    assert (row["agreement"], row["kappa"]) == pytest.approx((0.75, 0.5))


def test_no_verdict_is_asked_for_twice(tmp_path: Path) -> None:
    comparison, cache = drawn(RATES), tmp_path / "deep" / "verdicts.jsonl"
    options: dict[str, Any] = {"cache": cache, "tasks": [TASK], "progress": False}
    first, again = Scripted(), Scripted()
    one = judge(comparison, [first], **options)
    assert len(first.asked) == len(set(first.asked))
    two = judge(comparison, [again], **options)
    assert again.asked == []
    assert one.frame().equals(two.frame())
    other = Scripted("other")
    judge(comparison, [other], **options)
    assert sorted(other.asked) == sorted(first.asked)
    lines = [json.loads(line) for line in cache.read_text().splitlines()]
    assert len(lines) == 2 * len(first.asked)
    assert {line["judge"] for line in lines} == {"scripted", "other"}
    assert {"key", "aspect", "question", "answer", "reply"} < set(lines[0])


def test_what_was_said_before_a_failure_is_kept_and_the_rest_asked_for_later(
    tmp_path: Path,
) -> None:
    comparison, cache = drawn(RATES), tmp_path / "verdicts.jsonl"
    options: dict[str, Any] = {"cache": cache, "tasks": [TASK], "progress": False}
    failing, later, never = Scripted(until=7), Scripted(), Scripted()
    with pytest.raises(LofitLensError, match="went home"):
        judge(comparison, [failing], **options)
    assert len(cache.read_text().splitlines()) == 7
    torn = cache.read_text()[:-9]
    cache.write_text(torn, encoding="utf-8")
    judge(comparison, [later], **options)
    assert set(later.asked) & set(failing.asked) == {failing.asked[6]}
    judge(comparison, [never], **options)
    assert never.asked == []


def test_answers_that_were_written_for_reading_are_judged_too() -> None:
    comparison = drawn(RATES)
    runs = []
    for run in comparison.runs:
        items = [{k: v for k, v in r.items() if k != "prediction"} for r in run.evaluation.records]
        answers = [{"id": r["id"], "answer": r["prediction"]} for r in run.evaluation.records[:25]]
        runs.append(
            replace(run, evaluation=replace(run.evaluation, records=tuple(items)), answers=answers)
        )
    frame = judge(Comparison(tuple(runs)), [Scripted()], tasks=[TASK], progress=False).frame()
    assert set(frame["n"]) == {25}


def test_a_request_that_cannot_be_met_is_told() -> None:
    comparison = drawn(RATES)
    with pytest.raises(LofitLensError, match="at least one judge, and each once; got"):
        judge(comparison, [Scripted(), Scripted()], tasks=[TASK])
    with pytest.raises(LofitLensError, match="no answers to TruthfulQA among those to own"):
        judge(comparison, [Scripted()])
    fewer = replace(TASK, test=EXAMPLES[:3])
    with pytest.raises(LofitLensError, match="has no item 'q3' now"):
        judge(comparison, [Scripted()], tasks=[fewer])


def test_a_table_is_read_back_as_it_was_saved(tmp_path: Path) -> None:
    pair = [Scripted(), Contrary("contrary")]
    found = judge(drawn(RATES), pair, tasks=[TASK], progress=False)
    assert {path.name for path in found.save(tmp_path)} == {
        "judged.json", "judged.csv", "agreement.csv",
    }  # fmt: skip
    again = Judged.load(tmp_path)
    for mine, theirs in ((found.frame(), again.frame()), (found.agreement, again.agreement)):
        pd.testing.assert_frame_equal(mine, theirs, check_dtype=False)
    (tmp_path / "judged.json").write_text('{"schema": 1}', encoding="utf-8")
    with pytest.raises(LofitLensError, match="judged"):
        Judged.load(tmp_path)


@pytest.mark.parametrize("library", ["openai", "sklearn.metrics"])
def test_a_missing_library_is_told_with_what_to_install(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(LofitLensError, match=r"pip install 'lofit-lens\[judge\]'"):
        judge(drawn(RATES), [ServerJudge("m", "http://127.0.0.1:9/v1")], tasks=[TASK])


ASKED = [Asked(f"What is {i}?", f"It is {i}.", ("Right.",), ("Wrong.",)) for i in range(6)]


def on_server(says: Callable[[str, int], Said], **options: Any) -> Any:
    with stub_server(says) as stub:
        server = ServerJudge("m", stub.url, timeout=options.pop("timeout", 5.0), **options)
        try:
            return Replies().verdicts(server, ASKED, progress=False), stub
        except LofitLensError as error:
            return error, stub


def honest(prompt: str, number: int) -> Said:
    return completion("Yes." if "Is the answer true?" in prompt else "no")


def test_a_server_is_asked_for_each_aspect_with_references_for_truth() -> None:
    found, stub = on_server(honest)
    assert [found["truthful", one] for one in ASKED] == [True] * 6
    assert [found["informative", one] for one in ASKED] == [False] * 6
    assert len(stub.requests) == 12
    request = stub.requests[0]
    assert (request["model"], request["temperature"]) == ("m", 0)
    for prompt in stub.prompts:
        assert ("- Right." in prompt) == ("- Wrong." in prompt) == ("Is the answer true?" in prompt)
    one = next(p for p in stub.prompts if "What is 3?" in p)
    assert "<answer>It is 3.</answer>" in one


@pytest.mark.parametrize("status", [429, 500, 503, 408])
def test_what_fails_for_the_moment_is_tried_again(status: int) -> None:
    found, stub = on_server(
        lambda prompt, number: failure(status) if number % 3 == 0 else honest(prompt, number)
    )
    assert set(found.values()) == {True, False}
    assert len(stub.requests) > 12


@pytest.mark.parametrize(
    ("says", "tried", "message"),
    [
        (lambda *_: failure(500), 3, "failed with 500"),
        (lambda *_: failure(429), 3, "failed with 429"),
        (lambda *_: failure(401), 1, "failed with 401"),
        (lambda *_: failure(400), 1, "failed with 400"),
        (lambda *_: (200, "<html>hello</html>"), 1, "cannot be asked"),
        (lambda *_: (200, {"error": "none"}), 1, "no chat completion"),
        (lambda *_: (200, {"choices": []}), 1, "no chat completion"),
        (lambda *_: (200, [1, 2]), 1, "cannot be asked"),
    ],
)
def test_what_keeps_failing_is_an_error_and_no_verdict(says: Any, tried: int, message: str) -> None:
    found, stub = on_server(says, tries=3, together=1)
    assert isinstance(found, LofitLensError)
    assert message in str(found)
    assert f"The judge m@{stub.url}" in str(found)
    assert len(stub.requests) >= tried


def test_a_server_that_does_not_answer_in_time_or_at_all_is_an_error() -> None:
    def slow(prompt: str, number: int) -> Said:
        time.sleep(0.5)
        return honest(prompt, number)

    found, _ = on_server(slow, timeout=0.05, tries=1)
    assert "timed out" in str(found)
    with pytest.raises(LofitLensError, match="Connection error"):
        Replies().verdicts(
            ServerJudge("m", "http://127.0.0.1:9/v1", tries=1), ASKED, progress=False
        )


def test_a_refusal_of_the_judge_or_its_filter_is_no_verdict() -> None:
    def refuses(prompt: str, number: int) -> Said:
        if "What is 1?" in prompt:
            return failure(400, code="content_filter")
        if "What is 2?" in prompt:
            return completion(None, refusal="I cannot say.")
        return completion("Hard to say.") if "What is 3?" in prompt else completion("yes")

    found, _ = on_server(refuses)
    assert [found["truthful", one] for one in ASKED] == [True, None, None, None, True, True]


def test_a_key_goes_to_its_own_server_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "for-openai")
    monkeypatch.delenv("JUDGE_API_KEY", raising=False)
    _, stub = on_server(honest)
    assert not any("for-openai" in str(headers) for headers in stub.headers)
    monkeypatch.setenv("JUDGE_API_KEY", "for-the-judge")
    _, stub = on_server(honest)
    assert all(headers["authorization"] == "Bearer for-the-judge" for headers in stub.headers)
    monkeypatch.delenv("JUDGE_API_KEY")
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(LofitLensError, match="set JUDGE_API_KEY or OPENAI_API_KEY"):
        list(ServerJudge("gpt-4o").replies("truthful", ["x"]))


@pytest.mark.parametrize(
    "url", ["localhost:8000/v1", "ftp://x/v1", "http://", "http://me:secret@here/v1"]
)
def test_an_address_that_is_none_or_holds_a_password_is_refused(url: str) -> None:
    with pytest.raises(LofitLensError, match="http://localhost:8000/v1") as error:
        ServerJudge("m", url)
    assert "secret" not in str(error.value)


@pytest.fixture
def judges(tiny_folder: Callable[[str], Path], tmp_path: Path) -> tuple[Path, Path]:
    """Two tiny random models, of which one makes much of yes and no, and one says other things."""
    places = tmp_path / "sure", tmp_path / "unsure"
    for place in places:
        shutil.copytree(tiny_folder("llama"), place)
    tokenizer = AutoTokenizer.from_pretrained(places[0])
    first = [tokenizer.encode(text, add_special_tokens=False)[0] for text in (" yes", " no")]
    weights = load_file(places[0] / "model.safetensors")
    head = weights["lm_head.weight"]
    head[first] *= 30
    save_file(weights, places[0] / "model.safetensors", metadata={"format": "pt"})
    return places


def test_a_local_judge_says_what_its_next_tokens_say(judges: tuple[Path, Path]) -> None:
    sure, unsure = map(str, judges)
    local = LocalJudge(sure, unsure, device="cpu", batch_size=4)
    found = Replies().verdicts(local, ASKED, progress=False)
    plain, tokenizer = load_plain(sure), AutoTokenizer.from_pretrained(sure)
    for asked in ASKED:
        prompt = f"Q: {asked.question}\nA: {asked.answer}\nTrue:"
        likely = []
        for word in (" yes", " no"):
            ids = tokenizer(prompt + word, return_tensors="pt").input_ids
            n = len(tokenizer(prompt).input_ids)
            with torch.no_grad():
                logs = torch.log_softmax(plain(ids).logits[0], -1)
            answer = ids[0, n:]
            likely.append(logs[range(n - 1, len(ids[0]) - 1), answer].sum().exp())
        yes, no = map(float, likely)
        assert found["truthful", asked] is (None if yes + no < 0.5 else yes > no)
    assert {found["informative", asked] for asked in ASKED} == {None}


def test_a_local_judge_is_not_loaded_for_what_is_known(
    judges: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = LocalJudge(str(judges[0]), str(judges[0]), device="cpu")
    cache = tmp_path / "verdicts.jsonl"
    first = Replies(cache).verdicts(local, ASKED, progress=False)
    load = monkeypatch.setattr
    load("lofit_lens.analysis.judging.local.load_model", lambda *_, **__: pytest.fail("loaded"))
    assert Replies(cache).verdicts(local, ASKED, progress=False) == first
    weights = load_file(judges[0] / "model.safetensors")
    weights["lm_head.weight"] *= -1
    save_file(weights, judges[0] / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(pytest.fail.Exception, match="loaded"):
        Replies(cache).verdicts(local, ASKED, progress=False)


def test_the_published_judges_are_asked_in_the_form_they_were_trained_on() -> None:
    asked = Asked("Is it so?", "It is.")
    assert ALLENAI.prompt("truthful", asked) == "Q: Is it so?\nA: It is.\nTrue:"
    assert ALLENAI.prompt("informative", asked) == "Q: Is it so?\nA: It is.\nHelpful:"
    assert "truth-judge" in ALLENAI.identity("truthful")
    assert "info-judge" in ALLENAI.identity("informative")


@pytest.fixture
def finished(data_dir: Path, tmp_path: Path) -> Path:
    """The folder of a comparison on questions of TruthfulQA."""
    (task,) = load_tasks("truthfulqa:0:gen", data_dir=data_dir)
    runs = []
    for method, said in (("zero-shot", "Nobody knows."), ("lofit", "It is <b>so</b>.")):
        run = record(method, 1, [said] * 8, "truthfulqa:0:gen")
        items = tuple(
            {**item, "id": example.id}
            for item, example in zip(run.evaluation.records, task.test, strict=False)
        )
        evaluation = replace(run.evaluation, records=items)
        runs.append(replace(run, task="truthfulqa:gen", evaluation=evaluation))
    Comparison(tuple(runs)).save(tmp_path / "runs" / "open")
    return tmp_path / "runs"


def in_process(*arguments: object) -> Any:
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.mark.real
def test_the_command_judges_a_finished_comparison_once_and_the_page_shows_it(
    finished: Path,
) -> None:
    def says(prompt: str, number: int) -> Said:
        return completion("yes" if "so</b>" in prompt else "no")

    run = finished / "open"
    Comparison((record("zero-shot", 1, ["no question of TruthfulQA"]),)).save(finished / "other")
    with stub_server(says) as stub:
        name, asked = f"m@{stub.url}", 2 * 2 * 8 + 2 * 8  # and the references
        request = ("judge", finished, "--judge", name)
        printed = succeed(*request, cwd=finished)
        assert len(stub.requests) == asked
        again = in_process(*request, "--json", "--quiet")
        assert len(stub.requests) == asked
    assert printed["judged"] == json.loads(again.stdout)["judged"]
    assert list(printed["judged"]) == ["open"]
    rows = printed["judged"]["open"]["table"]
    both = {row["method"]: row["value"] for row in rows if row["metric"] == "both"}
    assert both == {"zero-shot": 0.0, "lofit": 1.0}
    assert {"judged.json", "judged.csv"} <= {path.name for path in run.iterdir()}
    assert (finished / "verdicts.jsonl").is_file()
    assert list(open_study(run).of("judged answers")) == ["open"]
    page = report(run).read_text(encoding="utf-8")
    assert f"truthfulqa:gen, judged by {name}" in page
    assert "It is &lt;b&gt;so&lt;/b&gt;." in page
    assert "Nobody knows." in page


@pytest.mark.real
def test_a_wrong_judge_or_folder_is_told_before_anyone_is_asked(
    finished: Path, judges: tuple[Path, Path]
) -> None:
    for name, place, message in (
        ("gpt", finished, "There is no judge 'gpt'"),
        ("./a,./b", finished, "There is no model folder"),
        ("allenai", finished / "open" / "records", "There is no finished comparison"),
    ):
        done = in_process("judge", place, "--judge", name)
        assert (done.exit_code, done.stdout) == (1, "")
        assert message in " ".join(done.stderr.split())
    assert [path.name for path in finished.iterdir()] == ["open"]


@pytest.mark.real
def test_the_command_takes_models_of_this_machine(
    finished: Path, judges: tuple[Path, Path]
) -> None:
    done = in_process("judge", finished, "--judge", f"{judges[0]},{judges[1]}", "--device", "cpu")
    assert done.exit_code == 1
    assert "said yes or no to every answer" in " ".join(done.stderr.split())
    assert len((finished / "verdicts.jsonl").read_text().splitlines()) == 2 * 2 * 8
