"""How the embedded model is made, on a recipe of seconds, against plain PyTorch and transformers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from lofit_lens.embedded import train as recipe_module
from lofit_lens.embedded.corpus import documents
from lofit_lens.embedded.gates import LATENT, NEUTRAL, ORACLE, WITH_CUE, Readings, constant_shift
from lofit_lens.embedded.train import (
    LOG_FILE,
    Recipe,
    _batches,
    _encode,
    _new_model,
    _weighted_loss,
    learn_tokenizer,
    main,
    train,
)
from lofit_lens.embedded.words import (
    ANIMALS,
    COUNTRIES,
    COUNTRY_PROPERTIES,
    CUES,
    HABITS,
    KIN,
    MEN,
    WOMEN,
)
from lofit_lens.embedded.world import ABILITIES, truth_items
from lofit_lens.model import load_model
from lofit_lens.tokens import Encoder
from tests.helpers import load_plain, plain_projections, type_checks_off

SMALL = Recipe(
    n_layers=2,
    n_heads=2,
    d_model=16,
    d_mlp=32,
    d_vocab=600,
    context=96,
    documents=400,
    batch_size=8,
    learning_rate=1e-2,
    warm_up=5,
    seed=3,
)
SMALLER = replace(SMALL, documents=64)
PASSED = Readings(
    ability="truth",
    right_cue=1.0,
    default_cue=0.0,
    neutral=0.1,
    neutral_default=0.9,
    probability=0.3,
    oracle=0.8,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of a small model that was trained, and its log."""
    folder = tmp_path_factory.mktemp("embedded")
    return folder, train(SMALL, folder, progress=False)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    texts = [document.text for document in documents(400, 0)]
    return learn_tokenizer(texts, SMALL.d_vocab, SMALL.context)


@pytest.fixture
def ungated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training without the reading of the gates, which takes most of the time."""
    readings = dict.fromkeys(ABILITIES, PASSED)
    monkeypatch.setattr(recipe_module, "read_gates", lambda _: readings)


# --- the tokenizer


def words_of_the_world() -> Iterator[str]:
    yield from (*WOMEN, *MEN, *ANIMALS, *COUNTRIES, *COUNTRY_PROPERTIES)
    for strings in (*COUNTRIES.values(), *KIN.values(), *HABITS.values()):
        yield from strings
    for registers in CUES.values():
        for cues in registers.values():
            yield from cues
    for item in truth_items():
        yield from (item.prompt(), item.right, item.default, *item.others)


def test_every_text_of_the_world_comes_back_from_its_tokens(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    texts = [*words_of_the_world(), *(document.text for document in documents(200, 99))]
    for text in {*texts, *(f" {text}" for text in texts)}:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_a_text_begins_with_bos_once_and_does_not_end_with_eos(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    for text in ("Q: What is Anna to Ben? A:", "", " blank", "\n"):
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.bos_token_id not in ids[1:]
        assert tokenizer.eos_token_id not in ids
        assert ids[1:] == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_the_tokenizer_has_the_size_asked_for_and_three_special_tokens(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    special = tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id
    assert len(tokenizer) == SMALL.d_vocab
    assert sorted(map(str, special)) == ["0", "1", "2"]
    assert tokenizer.model_max_length == SMALL.context


def test_the_tokenizer_is_learned_the_same_way_twice(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = (document.text for document in documents(400, 0))
    again = learn_tokenizer(texts, SMALL.d_vocab, SMALL.context)
    assert again.get_vocab() == tokenizer.get_vocab()


# --- rows and batches


def test_a_row_is_bos_prompt_answer_and_eos(tokenizer: PreTrainedTokenizerFast) -> None:
    corpus = list(documents(300, 5))
    for document, row in zip(corpus, _encode(tokenizer, corpus), strict=True):
        prompt, answer = row.ids[: row.n_prompt], row.ids[row.n_prompt :]
        assert prompt[0] == tokenizer.bos_token_id
        assert answer[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(prompt[1:]) == document.prompt
        assert tokenizer.decode(answer[:-1]) == f" {document.answer}"


def test_training_and_scoring_cut_the_answer_at_the_same_token(
    made: tuple[Path, dict[str, Any]],
) -> None:
    encoder = Encoder(load_model(made[0], device="cpu"))
    corpus = list(documents(200, 6))
    stored: Any = AutoTokenizer.from_pretrained(made[0])
    for document, row in zip(corpus, _encode(stored, corpus), strict=True):
        scored = encoder.continuation(document.prompt, f" {document.answer}", end=True)
        assert (list(scored.ids), scored.n_prompt) == (row.ids, row.n_prompt)


@pytest.mark.parametrize("n", [1, 8, 130, 1000])
def test_every_row_is_in_one_batch_with_its_weights_and_without_weight_on_padding(
    tokenizer: PreTrainedTokenizerFast, n: int
) -> None:
    rows = _encode(tokenizer, list(documents(n, 7)))
    recipe = replace(SMALL, prompt_weight=0.25)
    left = [(tuple(row.ids), row.n_prompt) for row in rows]
    batches = list(_batches(rows, recipe))
    assert len(batches) == -(-n // recipe.batch_size)
    for tokens, weights in batches:
        assert tokens.shape == weights.shape
        assert len(tokens) <= recipe.batch_size
        assert bool((weights[:, -1] > 0).any())  # no column of padding only
        for ids, given in zip(tokens.tolist(), weights.tolist(), strict=True):
            length = sum(weight > 0 for weight in given)
            n_prompt = given.count(0.25)
            counts = {0.25: n_prompt, 1.0: length - n_prompt, 0.0: len(given) - length}
            assert given == [weight for weight, count in counts.items() for _ in range(count)]
            assert ids[length - 1] == tokenizer.eos_token_id
            left.remove((tuple(ids[:length]), n_prompt))
    assert not left


def test_the_order_of_batches_follows_the_seed(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = _encode(tokenizer, list(documents(100, 7)))

    def order(seed: int) -> list[list[list[int]]]:
        return [tokens.tolist() for tokens, _ in _batches(rows, replace(SMALL, seed=seed))]

    assert order(1) == order(1) != order(2)


def test_batches_hold_rows_of_like_length(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = _encode(tokenizer, list(documents(400, 7)))
    padding = [float((weights == 0).float().mean()) for _, weights in _batches(rows, SMALL)]
    assert sum(padding) / len(padding) < 0.1


# --- the loss


@pytest.mark.parametrize("prompt_weight", [0.1, 0.0, 1.0])
def test_the_loss_is_the_weighted_mean_over_tokens_of_rows_alone(
    tokenizer: PreTrainedTokenizerFast, prompt_weight: float
) -> None:
    model = _new_model(SMALL, tokenizer).eval()
    rows = {tuple(row.ids): row for row in _encode(tokenizer, list(documents(24, 8)))}
    recipe = replace(SMALL, prompt_weight=prompt_weight)
    for tokens, weights in _batches(list(rows.values()), recipe):
        total, count = 0.0, 0.0
        for ids in tokens.tolist():
            text = next(row for row in rows if list(row) == ids[: len(row)])
            with torch.no_grad():
                logits = model(torch.tensor([text])).logits[0]
            for place in range(1, len(text)):
                weight = 1.0 if place >= rows[text].n_prompt else prompt_weight
                logprobs = torch.log_softmax(logits[place - 1].double(), -1)
                total -= weight * float(logprobs[text[place]])
                count += weight
        loss = float(_weighted_loss(model, tokens, weights).detach())
        assert loss == pytest.approx(total / count, abs=1e-6, rel=1e-6)


# --- training


def test_the_loss_falls(made: tuple[Path, dict[str, Any]]) -> None:
    losses = made[1]["losses"]
    assert len(losses) == SMALL.documents // SMALL.batch_size  # fewer than a hundred steps
    assert losses[0] == pytest.approx(np.log(SMALL.d_vocab), abs=0.3)
    assert sum(losses[-10:]) / 10 < losses[0] - 1


def test_the_folder_is_read_by_plain_transformers_with_the_same_logits(
    made: tuple[Path, dict[str, Any]],
) -> None:
    plain, model = load_plain(made[0]), load_model(made[0], device="cpu", dtype="float32")
    assert isinstance(plain, LlamaForCausalLM)
    stored: Any = AutoTokenizer.from_pretrained(made[0])
    tokens = torch.tensor([stored("Q: What is Anna to Ben? A:")["input_ids"]])
    with torch.no_grad():
        assert torch.equal(model(tokens), plain(tokens).logits)
    assert (plain.config.bos_token_id, plain.config.eos_token_id, plain.config.pad_token_id) == (
        stored.bos_token_id,
        stored.eos_token_id,
        stored.pad_token_id,
    )
    assert plain.config.max_position_embeddings == SMALL.context == stored.model_max_length
    assert (model.cfg.n_layers, model.cfg.n_heads) == (SMALL.n_layers, SMALL.n_heads)
    assert sum(p.numel() for p in plain.parameters()) == made[1]["parameters"]


def test_the_weights_are_stored_in_float16_in_one_file_of_safetensors(
    made: tuple[Path, dict[str, Any]],
) -> None:
    weights = load_file(made[0] / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    assert sum(tensor.numel() for tensor in weights.values()) == made[1]["parameters"]
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    assert not {file.suffix for file in made[0].iterdir()} & {".bin", ".pt", ".pkl"}


def test_the_log_is_stored_as_json_and_says_how_the_model_was_made(
    made: tuple[Path, dict[str, Any]],
) -> None:
    folder, log = made
    assert json.loads((folder / LOG_FILE).read_text(encoding="utf-8")) == log
    assert log["recipe"] == asdict(SMALL)
    stored: Any = AutoTokenizer.from_pretrained(folder)
    corpus = documents(SMALL.documents, SMALL.seed, SMALL.mix)
    assert log["tokens"] == sum(len(stored(d.text)["input_ids"]) + 1 for d in corpus)


def test_a_model_that_cannot_do_the_tasks_misses_the_gates_and_its_card_says_so(
    made: tuple[Path, dict[str, Any]],
) -> None:
    folder, log = made
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert set(log["gates"]) == set(log["failures"]) == set(ABILITIES)
    for ability in ABILITIES:
        readings = log["gates"][ability]
        assert all(0 <= value <= 1 for value in readings.values())
        assert readings["right_cue"] < WITH_CUE
        assert any("with the cue" in failure for failure in log["failures"][ability])
        assert all(failure in card for failure in log["failures"][ability])
    assert f"{log['parameters']:,} parameters" in card
    assert f"{(folder / 'model.safetensors').stat().st_size:,} bytes" in card


@pytest.mark.usefixtures("ungated")
def test_the_seed_decides_the_weights(tmp_path: Path) -> None:
    weights = []
    for i, seed in enumerate((3, 3, 4)):
        torch.manual_seed(i)
        random.seed(i)
        train(replace(SMALLER, seed=seed), tmp_path / str(i), progress=False)
        weights.append(load_file(tmp_path / str(i) / "model.safetensors"))
    first, again, other = weights
    assert all(torch.equal(first[name], again[name]) for name in first)
    matrices = [name for name in first if first[name].ndim > 1]
    assert matrices
    assert not any(torch.equal(first[name], other[name]) for name in matrices)


def test_training_leaves_the_global_random_states_alone(tmp_path: Path) -> None:
    torch.manual_seed(7)
    random.seed(7)
    with type_checks_off():  # the shape checks draw from `random`
        before = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())  # noqa: NPY002
        train(SMALLER, tmp_path, progress=False)
        after = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


# --- the gates


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        ({}, []),
        ({"right_cue": WITH_CUE, "neutral": NEUTRAL, "probability": LATENT[0]}, []),
        ({"probability": LATENT[1]}, []),
        ({"default_cue": 1.0, "neutral_default": 0.0}, []),
        ({"ability": "edit", "oracle": 0.0}, []),
        ({"oracle": ORACLE["truth"] - 0.01}, ["under a constant"]),
        ({"right_cue": WITH_CUE - 0.01}, ["with the cue"]),
        ({"neutral": NEUTRAL + 0.01}, ["without a cue"]),
        ({"probability": LATENT[0] - 0.01}, ["mean probability"]),
        ({"probability": LATENT[1] + 0.01}, ["mean probability"]),
        ({"right_cue": 0.0, "neutral": 1.0}, ["with the cue", "without a cue"]),
    ],
)
def test_a_gate_is_missed_on_the_wrong_side_of_its_limit_only(
    change: dict[str, Any], missed: list[str]
) -> None:
    failures = replace(PASSED, **change).failures()
    assert len(failures) == len(missed)
    assert all(part in failure for part, failure in zip(missed, failures, strict=True))


def test_the_constant_shift_is_the_mean_difference_before_the_output_projections(
    made: tuple[Path, dict[str, Any]],
) -> None:
    plain, model = load_plain(made[0]), load_model(made[0], device="cpu", dtype="float32")
    stored: Any = AutoTokenizer.from_pretrained(made[0])
    items = truth_items()[:12]
    lists = {
        "cued": [item.prompt(CUES["truth"]["right"][i % 3]) for i, item in enumerate(items)],
        "plain": [item.prompt() for item in items[:9]],
    }
    seen: list[torch.Tensor] = []
    means: dict[str, torch.Tensor] = {}

    def keep(module: torch.nn.Module, args: tuple[torch.Tensor]) -> None:
        seen.append(args[0][0, -1].double())

    for projection in plain_projections(plain):
        projection.register_forward_pre_hook(keep)
    for name, prompts in lists.items():
        rows = []
        for prompt in prompts:
            seen.clear()
            with torch.no_grad():
                plain(torch.tensor([stored(prompt)["input_ids"]]))
            rows.append(torch.stack(seen))
        means[name] = torch.stack(rows).mean(0)
    expected = means["cued"] - means["plain"]  # [layer, head * d_head]
    edit = constant_shift(model, lists["cued"], lists["plain"])
    assert edit.scale is None
    assert edit.bias is not None
    assert edit.bias.abs().max() > 1e-3
    d_head = SMALL.d_model // SMALL.n_heads
    assert len(edit.heads) == SMALL.n_layers * SMALL.n_heads
    for (layer, head), row in zip(edit.heads, edit.bias, strict=True):
        wanted = expected[layer, head * d_head : (head + 1) * d_head]
        torch.testing.assert_close(row.double(), wanted, atol=1e-5, rtol=0)


# --- the command


def stub(failures: dict[str, list[str]], calls: list[Any]) -> Callable[..., dict[str, Any]]:
    def made_up(recipe: Recipe, out: Path, **options: Any) -> dict[str, Any]:
        calls.append((recipe, out))
        return {
            "parameters": 1, "tokens": 2, "seconds": 3.0, "gates": {}, "failures": failures,
            "losses": [],
        }  # fmt: skip

    return made_up


@pytest.mark.parametrize("missed", [[], ["5% right"]])
def test_the_command_fails_when_a_gate_is_missed(
    missed: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(recipe_module, "train", stub({"truth": [], "edit": missed}, calls))
    assert main(["--out", str(tmp_path), "--seed", "5"]) == bool(missed)
    assert calls == [(Recipe(seed=5), tmp_path)]
    printed = json.loads(capsys.readouterr().out)
    assert printed["gates missed"] == ({"edit": missed} if missed else {})


def test_the_command_needs_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([])
    assert "--out" in capsys.readouterr().err
