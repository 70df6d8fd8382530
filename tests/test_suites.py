"""Suites of lm-evaluation-harness under an edit, against the harness and our own scoring."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from lofit_lens.analysis.baselines.contrast_edit import ContrastIntervention
from lofit_lens.analysis.causal.patching import PatchIntervention
from lofit_lens.analysis.cli.main import app
from lofit_lens.errors import LofitLensError, ScoringError, UnsupportedError
from lofit_lens.export import export_checkpoint
from lofit_lens.identity import fingerprint
from lofit_lens.model import load_model
from lofit_lens.scoring.generation import generate_greedily
from lofit_lens.scoring.logprobs import answer_logprobs
from lofit_lens.tasks import from_file
from lofit_lens.tokens import EncodedText
from tests.helpers import CONTEXT, N_LAYERS, count_hooks, draw_edit, type_checks_off

lm_eval = pytest.importorskip("lm_eval")

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

    from lofit_lens.analysis.suites.lm_eval import SuiteScores

from lofit_lens.analysis.suites import lm_eval as suites  # noqa: E402

QUESTIONS = ("Who lives in the old house?", "What is grey?", "Who is the daughter of Anna?", "Why?")
ANSWERS = ("A grey cat", "Ben", "the colour of the sky", "Clara lives in the red house")
SCOPES = ("all", "after_prompt", "iti_compat", "last")


def arc_rows(n: int = 20) -> list[dict[str, Any]]:
    """Made-up questions in the form of ARC, of several lengths."""
    return [
        {
            "id": str(i),
            "question": f"{QUESTIONS[i % 4]} {'It is blue. ' * (i % 3)}({i})",
            "choices": {"text": [f"{a} {i % 5}" for a in ANSWERS], "label": [*"ABCD"]},
            "answerKey": "ABCD"[i % 4],
        }
        for i in range(n)
    ]


def task_files(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """lm-eval's ARC over local rows, and the same rows to continue and as whole texts."""
    tasks = folder / "tasks"
    tasks.mkdir(parents=True)
    data = folder / "rows.jsonl"
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    local = {
        "tag": None,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")},
        "training_split": None,
        "validation_split": None,
        "test_split": "test",
    }
    text = {"doc_to_text": "Q: {{question}}\nA:", "doc_to_target": "{{choices.text[0]}}"}
    generation = {"until": ["\n"], "max_gen_toks": 12, "do_sample": False}
    files = {
        "arc_challenge": {
            "include": str(Path(lm_eval.__path__[0]) / "tasks" / "arc" / "arc_challenge.yaml")
        },
        "local_generation": text
        | {"output_type": "generate_until", "generation_kwargs": generation},
        "local_texts": text
        | {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{question}}",
        },
    }
    for name, content in files.items():
        path = tasks / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content | local | {"task": name}), encoding="utf-8")
    return tasks


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> TaskManager:
    return own_tasks(task_files(tmp_path_factory.mktemp("suites"), arc_rows()))


def own_tasks(folder: Path) -> TaskManager:
    """Without the thousands that come with lm-eval, which take seconds to list."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=folder, include_defaults=False)


def scored(model: Any, edit: Any, task: str, manager: TaskManager, **how: Any) -> SuiteScores:
    return suites.lm_eval(model, edit, [task], manager=manager, progress=False, **how)


def logprobs(samples: Sequence[Any]) -> torch.Tensor:
    """Log-probabilities by item and candidate."""
    items = sorted(samples, key=lambda item: item["doc_id"])
    return torch.tensor([[float(found[0][0]) for found in item["resps"]] for item in items])


def plain_scores(folder: Path, task: str, manager: TaskManager, **how: Any) -> list[Any]:
    """The items of a task as plain lm-eval scores a checkpoint."""
    simple_evaluate: Any = lm_eval.simple_evaluate
    found = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(folder), "dtype": "float32"},
        tasks=[task],
        task_manager=manager,
        batch_size=8,
        device="cpu",
        bootstrap_iters=0,
        **how,
    )
    return found["samples"][task]


def assert_same_items(found: SuiteScores, theirs: Sequence[Any]) -> None:
    ours = found.samples["arc_challenge"]
    assert len(ours) == len(theirs) > 0
    torch.testing.assert_close(logprobs(ours), logprobs(theirs), atol=1e-4, rtol=0)
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine["acc"], mine["acc_norm"]) == (other["acc"], other["acc_norm"])


def test_arc_challenge_under_an_edit_equals_that_of_the_exported_checkpoint(
    tiny_folder: Callable[[str], Path], manager: TaskManager, tmp_path: Path
) -> None:
    folder = tiny_folder("llama")
    model = load_model(folder, device="cpu", dtype="float32")
    before, edit = fingerprint(model), draw_edit(model)
    export_checkpoint(model, edit, tmp_path / "out")
    edited, plain = (scored(model, e, "arc_challenge", manager) for e in (edit, None))
    assert_same_items(edited, plain_scores(tmp_path / "out", "arc_challenge", manager))
    assert_same_items(plain, plain_scores(folder, "arc_challenge", manager))
    found, unlike = (logprobs(f.samples["arc_challenge"]) for f in (edited, plain))
    assert (found - unlike).abs().max() > 0.1
    assert fingerprint(model) == before


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_few_shot_examples_in_a_chat_are_those_of_plain_lm_eval(
    system: str | None, chat_folder: Callable[[str], Path], manager: TaskManager, tmp_path: Path
) -> None:
    folder = chat_folder("system")
    model = load_model(folder, device="cpu", dtype="float32")
    edit = draw_edit(model)
    export_checkpoint(model, edit, tmp_path / "out")
    found = scored(model, edit, "arc_challenge", manager, num_fewshot=1, chat=True, system=system)
    theirs = plain_scores(
        tmp_path / "out", "arc_challenge", manager, num_fewshot=1, apply_chat_template=True,
        system_instruction=system,
    )  # fmt: skip
    assert_same_items(found, theirs)
    prompt = found.samples["arc_challenge"][0]["arguments"][0][0]
    assert prompt == theirs[0]["arguments"][0][0] and prompt.count("<|user|>") == 2
    assert (system or "Be kind.") in prompt and prompt.endswith("<|model|>\n")
    assert found.results["config"]["chat"] == {
        "system": system,
        "template": hashlib.sha256(model.tokenizer.chat_template.encode()).hexdigest(),
    }


def test_a_chat_that_lm_eval_would_write_otherwise_than_asked_is_refused(
    chat_model: Callable[[str], Any], llama: Any, manager: TaskManager
) -> None:
    with pytest.raises(LofitLensError, match="no system turns here"):
        scored(chat_model("plain"), None, "arc_challenge", manager, chat=True, system="Be brief.")
    with pytest.raises(LofitLensError, match="no chat template"):
        scored(llama, None, "arc_challenge", manager, chat=True)
    with pytest.raises(LofitLensError, match="ask for the chat too"):
        scored(llama, None, "arc_challenge", manager, system="Be brief.")
    with pytest.raises(LofitLensError, match="num_fewshot must be a whole number"):
        scored(llama, None, "arc_challenge", manager, num_fewshot=-1)


@pytest.mark.real
def test_arc_challenge_on_smollm2_equals_that_of_the_exported_checkpoint(
    smollm2: Path, data_dir: Path, tmp_path: Path
) -> None:
    from tests.test_lm_eval import in_float32

    path = data_dir / "llm_adapters" / "arc-challenge_test.json"
    rows = [arc_row(row) for row in json.loads(path.read_text(encoding="utf-8"))[:6]]
    manager = own_tasks(task_files(tmp_path, rows))
    model = load_model(in_float32(smollm2, tmp_path / "smollm2"), device="cpu", dtype="float32")
    edit = 0.2 * draw_edit(model, scale=False)
    export_checkpoint(model, edit, tmp_path / "out")
    found = scored(model, edit, "arc_challenge", manager)
    assert_same_items(found, plain_scores(tmp_path / "out", "arc_challenge", manager))


def arc_row(row: dict[str, str]) -> dict[str, Any]:
    """A row of ARC's own form from one of LLM-Adapters'."""
    question, _, choices = row["instruction"].partition("\n\nAnswer1: ")
    texts = choices.partition("\n\nAnswer format")[0]
    parts = [part.split(": ", 1)[-1].strip() for part in texts.split(" Answer")]
    choices = {"text": parts, "label": [f"answer{i + 1}" for i in range(len(parts))]}
    question = question.removeprefix("Please choose the correct answer to the question: ")
    return {"question": question, "choices": choices, "answerKey": row["answer"]}


def edits_of_every_reach(model: Any) -> list[Any]:
    """Edits of every token scope, and those that run a text more than once."""
    contrast = {"layers": (1,), "n_layers": N_LAYERS, "alpha": 2.0}
    heads = draw_edit(model).heads
    return [
        *(draw_edit(model, scope=scope) for scope in SCOPES),
        *(ContrastIntervention("Be red. ", "", scope=s, **contrast) for s in ("all", "last")),
        PatchIntervention(heads, donor=draw_edit(model, seed=3)),
    ]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_answers_are_scored_in_every_scope_as_we_score_them(
    family: str, tiny_model: Callable[[str], Any], manager: TaskManager
) -> None:
    model = tiny_model(family)
    hooks = count_hooks(model)
    for edit in edits_of_every_reach(model):
        found = scored(model, edit, "arc_challenge", manager, batch_size=7)
        texts = [text for item in items_of(found) for text in texts_of(model, item)]
        expected = answer_logprobs(model, texts, edit).reshape(-1, 4)
        torch.testing.assert_close(
            logprobs(found.samples["arc_challenge"]), expected, atol=1e-4, rtol=0
        )
    assert count_hooks(model) == hooks


def items_of(found: SuiteScores) -> list[Any]:
    return sorted(found.samples["arc_challenge"], key=lambda item: item["doc_id"])


def texts_of(model: Any, item: Any) -> list[EncodedText]:
    """The candidates of an item as the harness cuts them: where the prompt ends, and from the left."""
    texts = []
    for prompt, answer in item["arguments"]:
        ids = model.tokenizer(prompt + answer)["input_ids"]
        n_prompt = len(model.tokenizer(prompt)["input_ids"])
        cut = max(0, len(ids) - CONTEXT - 1)
        texts.append(EncodedText(tuple(ids[cut:]), n_prompt - cut))
    return texts


def test_a_prompt_that_is_cut_from_the_left_ends_where_it_ended(llama: Any, tmp_path: Path) -> None:
    long = {**arc_rows(1)[0], "question": "The cat is grey. " * 40}
    manager = own_tasks(task_files(tmp_path, [*arc_rows(3), long]))
    edit = draw_edit(llama, scope="last")
    found = scored(llama, edit, "arc_challenge", manager)
    texts = texts_of(llama, items_of(found)[3])
    assert {len(text.ids) for text in texts} == {CONTEXT + 1}
    torch.testing.assert_close(
        logprobs(found.samples["arc_challenge"])[3], answer_logprobs(llama, texts, edit)
    )


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_texts_are_generated_in_every_scope_as_we_generate_them(
    family: str, tiny_model: Callable[[str], Any], manager: TaskManager
) -> None:
    model = tiny_model(family)
    before = fingerprint(model)
    prompts = [f"Q: {row['question']}\nA:" for row in arc_rows()]
    told = set()
    for edit in [None, *edits_of_every_reach(model)[:-1]]:
        found = scored(model, edit, "local_generation", manager, batch_size=6)
        items = sorted(found.samples["local_generation"], key=lambda item: item["doc_id"])
        texts = [item["resps"][0][0] for item in items]
        expected = generate_greedily(model, prompts, edit, max_new_tokens=12, progress=False)
        assert texts == [text.split("\n")[0] for text in expected]
        told.add(tuple(texts))
    assert len(told) > 4 and fingerprint(model) == before  # lm-eval ties weights anew


def test_what_a_kind_of_requests_cannot_honour_is_refused(llama: Any, manager: TaskManager) -> None:
    with pytest.raises(UnsupportedError, match="local_texts scores whole texts"):
        scored(llama, draw_edit(llama, scope="last"), "local_texts", manager)
    edits = [None, draw_edit(llama)]
    values = [scored(llama, edit, "local_texts", manager).frame().value[0] for edit in edits]
    assert values[0] != values[1]
    with pytest.raises(UnsupportedError, match="Patching runs each text whole"):
        scored(llama, edits_of_every_reach(llama)[-1], "local_generation", manager)


def test_what_means_nothing_and_what_lm_eval_refuses_is_told(
    llama: Any, tmp_path: Path, manager: TaskManager
) -> None:
    tasks = task_files(tmp_path, arc_rows(2))
    file = tasks / "local_generation.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace("_toks: 12", "_toks: 500"))
    with pytest.raises(
        LofitLensError, match=r"cannot run local_generation: .*\(500\) must be less"
    ):
        scored(llama, None, "local_generation", own_tasks(tasks))
    llama.original_model.get_output_embeddings().weight.fill_(torch.nan)
    for task in ("arc_challenge", "local_generation", "local_texts"):
        with pytest.raises(ScoringError, match="not a number"):
            scored(llama, None, task, manager)


def test_an_unknown_task_is_refused_with_the_nearest(llama: Any, manager: TaskManager) -> None:
    with pytest.raises(LofitLensError, match=r"no task 'arc_chalenge'\. Near it: arc_challenge"):
        scored(llama, None, "arc_chalenge", manager)
    with pytest.raises(LofitLensError, match="Name at least one task"):
        suites.lm_eval(llama, None, [], manager=manager)
    with pytest.raises(LofitLensError, match="There is no folder nowhere"):
        suites.task_manager("nowhere")


def test_batches_are_halved_when_memory_runs_out_and_random_states_stay(
    llama: Any, manager: TaskManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lofit_lens.analysis.suites.edited_lm import EditedLM

    call, sizes = EditedLM._model_call, []

    def narrow(self: Any, inps: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        sizes.append(len(inps))
        if len(inps) > 8:
            raise RuntimeError("CUDA out of memory.")
        return call(self, inps, *args, **kwargs)

    edit = draw_edit(llama)
    expected = scored(llama, edit, "arc_challenge", manager).samples["arc_challenge"]
    monkeypatch.setattr(EditedLM, "_model_call", narrow)
    with type_checks_off():  # they draw numbers
        before = random_states()
        found = scored(llama, edit, "arc_challenge", manager, batch_size="auto")
        assert random_states() == before
    torch.testing.assert_close(logprobs(found.samples["arc_challenge"]), logprobs(expected))
    assert max(sizes) > 8 and sizes.count(8) == 10


def random_states() -> list[Any]:
    numpys: Any = np.random.get_state()  # noqa: NPY002
    return [random.getstate(), numpys[1].tolist(), torch.get_rng_state().tolist()]


def test_the_command_writes_results_and_items_and_names_the_edit(
    tiny_folder: Callable[[str], Path],
    manager: TaskManager,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, out = tiny_folder("llama"), tmp_path / "out"
    model = load_model(folder, device="cpu")
    draw_edit(model, scope="after_prompt").save(tmp_path / "edit")
    monkeypatch.setattr(suites, "task_manager", lambda _folder: manager)
    command = [
        "lm-eval",
        str(tmp_path / "edit"),
        "--model",
        str(folder),
        "--tasks",
        "arc_challenge",
    ]
    command += ["--limit", "5", "--batch-size", "4", "--device", "cpu", "--out", str(out)]
    done = CliRunner().invoke(app, [*command, "--json", "--quiet"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["results"]["arc_challenge"]["acc,none"] in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    written = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert written["results"] == told["results"]
    assert "after_prompt" in written["config"]["edit"]["what"]
    lines = (out / "samples_arc_challenge.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 5 and json.loads(lines[0])["doc"]["answerKey"] == "A"
    task = from_file(out / "samples_arc_challenge.jsonl")
    items = [*task.train, *task.val, *task.test]
    assert {item.prompt for item in items} == {
        f"Question: {row['question']}\nAnswer:" for row in arc_rows(5)
    }
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 1 and "is there" in again.output
    chat = [command[0], *command[2:], "--overwrite", "--chat", "--num-fewshot", "1"]
    refused = CliRunner().invoke(app, chat)
    assert refused.exit_code == 1 and "no chat template" in refused.output
    plain = CliRunner().invoke(app, [command[0], *command[2:], "--overwrite"])
    assert plain.exit_code == 0 and "acc_norm" in plain.stdout
    assert json.loads((out / "results.json").read_text(encoding="utf-8"))["config"]["edit"] is None


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    done = CliRunner().invoke(app, ["lm-eval", "--model", "embedded", "--tasks", "arc_challenge"])
    assert done.exit_code == 1 and "pip install 'lofit-lens[lm-eval]'" in done.output
