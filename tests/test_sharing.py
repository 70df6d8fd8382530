"""Edits and heads go to a hub and come back; the hub is a stub on the loopback."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import constants
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from lofit_lens.analysis.cli.main import app
from lofit_lens.analysis.runs import read_heads
from lofit_lens.card import card
from lofit_lens.edits.edit import Edit
from lofit_lens.edits.files import load_edit, save_edit
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.edits.on_residual import ResidualIntervention
from lofit_lens.errors import LofitLensError, ModelMismatchError
from lofit_lens.head_scores import HeadScores
from lofit_lens.heads import HeadSet
from lofit_lens.scoring.evaluation import Evaluation
from lofit_lens.sharing import push_to_hub
from tests.helpers import FAMILIES, assert_same_logits, draw_edit, draw_tokens
from tests.hub_stub import Hub, served
from tests.test_edit_files import KEPT, as_json, logits, origin

ITEMS = tuple({"id": str(i), "group": "", "accuracy": float(i % 2)} for i in range(8))
SCORED = Evaluation("kin", "test", ("accuracy",), ITEMS, {})


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty hub, the only one there is, and an empty cache."""
    with served(Hub()) as found:
        template = found.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in {
            "ENDPOINT": found.endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_HUB_OFFLINE": False,
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.chdir(tmp_path)
        yield found


@pytest.mark.parametrize("kind", KEPT)
def test_an_edit_of_any_kind_comes_back_from_the_hub(
    kind: str, llama: TransformerBridge, hub: Hub
) -> None:
    saved = KEPT[kind](llama)
    commit = push_to_hub(saved, "me/mine")
    assert commit == hub.repos["me/mine"][-1][0]
    found = load_edit("me/mine", llama)
    assert repr(found) == repr(saved)
    assert as_json(found.provenance) == as_json(saved.provenance)
    assert torch.equal(logits(llama, found), logits(llama, saved))
    names = {name.partition(".")[2] for name in hub.newest("me/mine")}
    assert names == {"json", "safetensors", "md"}


def test_an_edit_takes_the_place_of_another_and_a_revision_gives_the_earlier_one(
    llama: TransformerBridge, hub: Hub
) -> None:
    first, second = KEPT["heads"](llama), KEPT["BitFit"](llama)
    commit = push_to_hub(first, "me/mine")
    push_to_hub(second, "me/mine")
    assert set(hub.newest("me/mine")) == {"README.md", "edit.json", "edit.safetensors"}
    assert repr(load_edit("me/mine")) == repr(second)
    assert repr(HeadIntervention.load("me/mine", llama, revision=commit)) == repr(first)
    with pytest.raises(LofitLensError, match=r"'me/mine' has no revision 'v9' on http"):
        load_edit("me/mine", revision="v9")


def test_heads_and_scores_come_back_and_leave_an_edit_where_it_is(hub: Hub) -> None:
    heads = HeadSet([(2, 1), (0, 3)], n_layers=3, n_heads=4)
    scores = HeadScores(torch.rand(3, 4), "random")
    push_to_hub(HeadIntervention(heads, bias=torch.ones(2, 8)), "me/heads")
    first = push_to_hub(heads, "me/heads")
    push_to_hub(scores, "me/heads")
    assert HeadSet.load("me/heads") == HeadSet.load("me/heads", revision=first) == heads
    assert torch.equal(HeadScores.load("me/heads").scores, scores.scores)
    assert load_edit("me/heads").n_parameters == 16
    assert read_heads(Path("me/heads"), n_layers=3, n_heads=4, k=1).heads == ((2, 1),)
    with pytest.raises(ModelMismatchError, match="made for 3 layers x 4 heads"):
        HeadSet.load("me/heads", n_layers=5)


def test_what_lies_here_comes_first_and_is_never_asked_for(
    llama: TransformerBridge, hub: Hub, tmp_path: Path
) -> None:
    here = ResidualIntervention(torch.ones(1, 4), (1,), 2)
    push_to_hub(KEPT["heads"](llama), "me/mine")
    save_edit(here, tmp_path / "me" / "mine")
    hub.asked.clear()
    for place in ("me/mine", Path("me/mine"), "./me/mine"):
        assert repr(load_edit(place)) == repr(here)
    with pytest.raises(LofitLensError, match=r"'main' is of the hub, but me/mine .* comes first"):
        load_edit("me/mine", revision="main")
    for place in (
        Path("me/other"),
        "./me/other",
        "me/heads.json",
        "one",
        "a--b/c",
        "a/..",
        "a/b/c",
        str(tmp_path / "x"),
    ):
        with pytest.raises(LofitLensError):
            load_edit(place)
    with pytest.raises(LofitLensError, match="No head list at"):
        HeadSet.load("me/heads.npy", n_layers=1, n_heads=1)
    assert hub.asked == []


def test_without_a_network_the_cache_is_read_and_what_is_not_there_is_told(
    llama: TransformerBridge, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = KEPT["heads"](llama)
    commit = push_to_hub(saved, "me/mine")
    load_edit("me/mine")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for revision in (None, commit):
        assert repr(load_edit("me/mine", revision=revision)) == repr(saved)
    with pytest.raises(LofitLensError, match=r"nothing lies at .*me/new.*cache.*OFFLINE is set"):
        load_edit("me/new")
    with pytest.raises(LofitLensError, match=r"'me/mine' could not be pushed.*offline"):
        push_to_hub(saved, "me/mine")


def test_what_is_not_there_is_told(hub: Hub) -> None:
    hub.commit("me/model", {"config.json": b"{}", "pytorch_model.bin": b""})
    with pytest.raises(LofitLensError, match=r"nothing lies at .*me/no.*none of this name on http"):
        load_edit("me/no")
    with pytest.raises(
        LofitLensError, match=r"no edit: there is no edit\.json or intervention\.json or adapter"
    ):
        load_edit("me/model")
    with pytest.raises(LofitLensError, match=r"no head list: there is no heads\.json in it"):
        HeadSet.load("me/model")
    with pytest.raises(LofitLensError, match="named as \"user/repo\", got 'mine'"):
        push_to_hub(HeadSet([], n_layers=1, n_heads=1), "mine")


def test_a_hostile_repository_gives_the_named_files_alone_and_none_too_large(
    llama: TransformerBridge, hub: Hub, tmp_path: Path
) -> None:
    push_to_hub(KEPT["heads"](llama), "me/mine")
    files = hub.newest("me/mine")
    bad = {"../../x": b"x", "intervention.pkl": b"x", "pytorch_model.bin": b"x", "x.py": b"x"}
    hub.commit("me/mine", files | bad)
    hub.asked.clear()
    load_edit("me/mine")
    asked = {text.rpartition("/")[2] for text in hub.asked}
    assert asked == {"edit.json", "intervention.json", "intervention.safetensors"}
    kept = {path.name for path in (tmp_path / "cache").rglob("snapshots/*/*")}
    assert kept == {"intervention.json", "intervention.safetensors"}
    for name, size in (("intervention.json", 2**27), ("intervention.safetensors", 2**40)):
        hub.sizes = {name: size}
        hub.commit("me/mine", files)
        hub.asked.clear()
        with pytest.raises(
            LofitLensError, match=rf"{name} of 'me/mine' is [\d,]+ MB long; at most"
        ):
            load_edit("me/mine")
        assert not any(text.startswith("GET") for text in hub.asked)
    hub.sizes = {}
    hub.commit("me/mine", files | {"intervention.safetensors": b"\x80\x04pickle"})
    with pytest.raises(LofitLensError, match="is damaged"):
        load_edit("me/mine")


def run_command(*arguments: object) -> dict[str, Any]:
    command = [*map(str, arguments), "--device", "cpu", "--json", "--quiet"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_commands_take_heads_and_edits_from_the_hub(
    tiny_folder: Callable[[str], Path], hub: Hub, tmp_path: Path
) -> None:
    rows = [
        {"sentence_good": f"The cat {i} is.", "sentence_bad": f"The {i} is cat."} for i in range(20)
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    asked = ("--model", tiny_folder("llama"), "--task", "pairs.jsonl")
    push_to_hub(HeadSet([(0, 1)], n_layers=3, n_heads=4), "me/heads")
    run_command("tune", *asked, "--heads", "me/heads", "--epochs", 1, "--out", "run")
    tuned = HeadIntervention.load("run")
    assert tuned.heads.heads == ((0, 1),)
    push_to_hub(tuned, "me/mine")
    here = run_command("evaluate", *asked, "--intervention", "run")
    assert run_command("evaluate", *asked, "--intervention", "me/mine") == here
    done = CliRunner().invoke(app, ["evaluate", "--intervention", "me/mine"])
    assert done.exit_code == 1 and "Say which model" in done.output


def front_matter(text: str) -> Any:
    return yaml.safe_load(text.split("---")[1])


def test_the_card_says_what_it_is_how_it_was_made_and_how_well_it_does(
    llama: TransformerBridge, hub: Hub
) -> None:
    saved: Any = KEPT["heads, bias"](llama)
    push_to_hub(saved, "me/mine", evaluations={"zero-shot": SCORED}, base_model="some/base")
    text = hub.newest("me/mine")["README.md"].decode()
    front = front_matter(text)
    assert front["base_model"] == "some/base"
    assert front["library_name"] == "lofit-lens"
    assert front["metrics"] == ["accuracy"]
    estimate = SCORED.main
    interval = f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f}"
    assert f"| `zero-shot` | `accuracy` | 50.0 | {interval} | 8 |" in text
    origin = saved.provenance
    for part in (
        origin.task, origin.data_hash, origin.fingerprint.weights, '"rate": 0.30000000000000004',
        "ll.load_model('some/base')", "ll.load_edit('me/mine', model)", "Token scope: `all`",
    ):  # fmt: skip
        assert part in text


def test_the_card_shows_the_scores_an_edit_carries_and_names_a_model_of_the_hub(
    llama: TransformerBridge,
) -> None:
    found: Any = KEPT["heads"](llama)
    mark = replace(found.provenance.fingerprint, name="some/base", revision="abc")
    told = {"tuned": {"accuracy": asdict(SCORED.main)}, "else": 1}
    text = card(
        replace(found, provenance=replace(found.provenance, fingerprint=mark, metrics=told)),
        "me/mine",
    )
    assert front_matter(text)["base_model"] == "some/base"
    assert "load_model('some/base', revision='abc')" in text
    assert "| `tuned` | `accuracy` | 50.0 |" in text
    assert "`else`" not in text


def test_texts_of_others_stay_texts_in_a_card(llama: TransformerBridge) -> None:
    nasty = "`<script>` |\n```\n---\nbase_model: x"
    found: Any = KEPT["heads"](llama)
    mark = replace(found.provenance.fingerprint, name=nasty)
    config = {"note": nasty, "seed": 1}
    hurt = replace(found.provenance, task=nasty, fingerprint=mark, config=config)
    text = card(replace(found, provenance=hurt), "me/mine", evaluations={nasty: SCORED})
    assert "base_model" not in front_matter(text)
    fences = [line for line in text.splitlines() if line.startswith("```")]
    assert fences == ["```json", "```", "```python", "```", "```python", "```"]
    assert "<script>" not in re.sub(r"`[^`]*`", "", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_lines_of_the_card_give_the_same_logits_in_plain_transformers(
    family: str,
    tiny_model: Callable[[str], TransformerBridge],
    tiny_folder: Callable[[str], Path],
    hub: Hub,
) -> None:
    model = tiny_model(family)
    tokens = draw_tokens()
    for edit in (draw_edit(model, scale=False), draw_edit(model, seed=1)):
        push_to_hub(edit, "me/mine", base_model=str(tiny_folder(family)))
        text = hub.newest("me/mine")["README.md"].decode()
        _, plain = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        names: dict[str, Any] = {}
        exec(plain, names)
        with torch.no_grad():
            assert_same_logits(names["model"](tokens).logits, logits(model, edit), rel=1e-5)
            unedited = AutoModelForCausalLM.from_pretrained(tiny_folder(family))(tokens).logits
        assert (unedited - logits(model, edit)).abs().max() > 0.01


@pytest.mark.parametrize("kind", ["residual", "heads, scale"])
def test_a_card_has_no_lines_for_what_a_few_lines_cannot_do(
    kind: str, llama: TransformerBridge
) -> None:
    found: Edit = KEPT[kind](llama)
    assert card(found, "me/mine").count("```python") == 1


def test_an_edit_without_an_origin_and_heads_have_cards(llama: TransformerBridge) -> None:
    heads = HeadSet([(0, 1)], n_layers=2, n_heads=2)
    scores = HeadScores(torch.rand(2, 2), provenance=origin(llama))
    for thing in (HeadIntervention(heads, bias=torch.ones(1, 4)), heads, scores):
        text = card(thing, "me/mine")
        assert (".load('me/mine')" in text) != isinstance(thing, HeadIntervention)
        assert ("Nothing is recorded" in text) == (thing is not scores)
