"""All selectors behind one type: planted heads are found, draws are what they say they are."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from lofit_lens.analysis.baselines.activations import last_z
from lofit_lens.analysis.baselines.attribution import attribute_heads
from lofit_lens.analysis.baselines.gates import GateConfig
from lofit_lens.analysis.baselines.selectors import (
    HeadSelector,
    at_random,
    by_attribution,
    by_bias,
    by_gates,
    by_scale,
    from_file,
    layer_matched,
)
from lofit_lens.analysis.methods.selectors import selector
from lofit_lens.analysis.methods.settings import Settings
from lofit_lens.errors import LofitLensError, ModelMismatchError
from lofit_lens.head_scores import HeadScores
from lofit_lens.heads import HeadSet
from lofit_lens.model import load_model
from lofit_lens.tasks import Example, MultipleChoice, Task
from lofit_lens.tokens import Encoder
from lofit_lens.training import SelectionConfig, TuningConfig
from tests.helpers import (
    D_MODEL,
    N_HEADS,
    N_LAYERS,
    load_plain,
    plain_projections,
    save_tiny_model,
)

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

PLANTED = ((0, 2), (1, 0), (2, 3))
READ = D_MODEL // 2
"""Only the first half of the residual stream is ever read: by queries, keys, values and logits."""

TRAINED: dict[str, HeadSelector] = {
    "lofit": by_scale(SelectionConfig(learning_rate=2e-2, epochs=12, batch_size=4, validate=False)),
    "bias-norm": by_bias(TuningConfig(learning_rate=2e-2, epochs=12, batch_size=4, validate=False)),
    "gates": by_gates(GateConfig(learning_rate=2e-2, epochs=12, batch_size=4, validate=False)),
    "attribution": by_attribution(),
}
NAMES = (
    "lofit", "bias-norm", "probes", "probe-layers", "gates", "attribution", "random",
    "layer-matched",
)  # fmt: skip
DEFAULT = Settings()
QUICK = Settings(
    selection=SelectionConfig(epochs=1, validate=False),
    tuning=TuningConfig(epochs=1, validate=False),
)


def colours_of_things() -> Task:
    """Which colour follows depends on the thing, which only attention can bring to the end."""
    colours = {"sky": " blue.", "cat": " grey.", "house": " red.", "sister": " old."}
    examples = tuple(
        Example(
            f"{thing}-{i}",
            f"{'The ' * i}{thing} is",
            (colour,),
            tuple(wrong for wrong in colours.values() if wrong != colour),
            group=thing,
        )
        for thing, colour in colours.items()
        for i in range(1, 4)
    )
    return Task(
        name="things", train=examples, val=examples, test=examples, val_as_test=examples,
        objective="sft", scoring=MultipleChoice(),
    )  # fmt: skip


Plant = Callable[[float], "TransformerBridge"]


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Plant:
    """Llamas whose planted heads write where others read, and whose other heads write elsewhere.

    All heads have outputs of like size. What the others write, times `loudness`, reaches the
    loss through the norm of the residual stream alone.
    """
    root = tmp_path_factory.mktemp("planted")
    folder = save_tiny_model("llama", root / "random")
    made: dict[float, TransformerBridge] = {}

    def model_of(loudness: float) -> TransformerBridge:
        if loudness not in made:
            made[loudness] = _planted(folder, root / f"loudness {loudness}", loudness)
        return made[loudness]

    return model_of


def _planted(folder: Path, target: Path, loudness: float) -> TransformerBridge:
    model = load_plain(folder)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, READ:] = 0
        for name, module in model.named_modules():
            if name.endswith(("layernorm", "norm")):
                module.weight[READ:] = 0
        for layer, (block, projection) in enumerate(
            zip(model.model.layers, plain_projections(model), strict=True)
        ):
            block.mlp.down_proj.weight.zero_()
            weight: Any = projection.weight
            by_head = weight.view(D_MODEL, N_HEADS, -1)
            for head in range(N_HEADS):
                if (layer, head) in PLANTED:
                    by_head[READ:, head] = 0
                else:
                    by_head[:READ, head] = 0
                    by_head[:, head] *= loudness
    model.save_pretrained(target)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (target / name).write_bytes((folder / name).read_bytes())
    return load_model(target, device="cpu")


def fixed(scores: torch.Tensor) -> HeadSelector:
    """A selector that gives these scores whatever it is asked."""
    return lambda _model, _task, _seed: HeadScores(scores, "fixed")


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", TRAINED)
def test_the_planted_heads_are_found(plant: Plant, name: str, seed: int) -> None:
    # removing a loud head that nothing reads changes the norm, so the loss: attribution counts that
    model = plant(0.3 if name == "attribution" else 1.0)
    scores = TRAINED[name](model, colours_of_things(), seed)
    assert set(scores.top(k=len(PLANTED))) == set(PLANTED)
    assert scores.method == name
    assert scores.provenance is not None
    assert scores.provenance.task == "things"
    if name != "attribution":
        assert scores.provenance.config["seed"] == seed


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_every_selector_scores_every_head(
    tiny_model: Callable[[str], TransformerBridge], family: str
) -> None:
    model, task = tiny_model(family), colours_of_things()
    for name in NAMES:
        scores = selector(name, QUICK)(model, task, 1)
        assert isinstance(scores, HeadScores)
        assert scores.scores.shape == (N_LAYERS, N_HEADS)
        assert len(scores.top(k=5)) == 5
        drawn = name in ("random", "layer-matched")
        assert scores.method.startswith("random") if drawn else scores.method == name


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides_and_global_generators_are_left_alone(
    llama: TransformerBridge, name: str
) -> None:
    task, select = colours_of_things(), selector(name, QUICK)
    torch.manual_seed(0)
    states = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    first = select(llama, task, 1)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert str(np.random.get_state()) == states[1]  # noqa: NPY002
    torch.manual_seed(1)
    assert torch.equal(select(llama, task, 1).scores, first.scores)
    same = torch.equal(select(llama, task, 2).scores, first.scores)
    # with the wrong answers given, nothing is drawn for a probe
    assert same == (name in ("probes", "probe-layers", "attribution"))


def test_the_probe_selector_ranks_by_the_accuracy_scikit_learn_finds(
    llama: TransformerBridge, tiny_folder: Callable[[str], Path]
) -> None:
    task = colours_of_things()
    plain, encoder = load_plain(tiny_folder("llama")), Encoder(llama)
    rows: list[np.ndarray] = []
    seen: list[torch.Tensor] = []
    for projection in plain_projections(plain):
        projection.register_forward_pre_hook(lambda _, args: seen.append(args[0][0, -1]))
    labels = []
    for example in task.train:
        for answer in (*example.correct, *example.incorrect):
            seen.clear()
            with torch.no_grad():
                plain(torch.tensor([encoder.continuation(example.prompt, answer).ids]))
            rows.append(torch.stack(seen).unflatten(-1, (N_HEADS, -1)).numpy())
            labels.append(answer in example.correct)
    z = np.stack(rows)
    scores = selector("probes", DEFAULT)(llama, task, 0).scores.numpy()
    found = np.empty((N_LAYERS, N_HEADS))
    for layer in range(N_LAYERS):
        for head in range(N_HEADS):
            x = StandardScaler().fit_transform(z[:, layer, head])
            found[layer, head] = LogisticRegression(max_iter=1000).fit(x, labels).score(x, labels)
    step = 1 / len(labels)
    assert (scores <= found + 1e-6).all()
    assert (scores > found - step).all()


def test_attribution_has_the_objective_and_the_batches_of_tuning(
    llama: TransformerBridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = colours_of_things()
    scores = {
        objective: selector("attribution", Settings(tuning=TuningConfig(objective=objective)))(
            llama, task, 0
        )
        for objective in (None, "sft", "dpo", "choice")
    }
    for objective in ("sft", "dpo", "choice"):
        expected = attribute_heads(llama, task, objective=objective, progress=False).scores
        assert torch.equal(scores[objective].scores, expected)
    assert torch.equal(scores[None].scores, scores[task.objective].scores)
    assert not torch.allclose(scores["sft"].scores, scores["dpo"].scores)

    asked: list[int] = []

    def attributed(*_: Any, batch_size: int, **__: Any) -> HeadScores:
        asked.append(batch_size)
        return scores[None]

    monkeypatch.setattr("lofit_lens.analysis.baselines.selectors.attribute_heads", attributed)
    for tuning in (TuningConfig(batch_size=6), TuningConfig(batch_size=6, micro_batch_size=2)):
        selector("attribution", Settings(tuning=tuning, batch_size=64))(llama, task, 0)
    assert asked == [6, 2]


@pytest.mark.parametrize("name", ["probes", "probe-layers"])
def test_probes_read_as_many_texts_a_pass_as_they_are_told(
    llama: TransformerBridge, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def read(*arguments: Any, batch_size: int) -> torch.Tensor:
        asked.append(batch_size)
        return last_z(*arguments, batch_size=batch_size)

    monkeypatch.setattr("lofit_lens.analysis.baselines.selectors.last_z", read)
    task = colours_of_things()
    found = [selector(name, Settings(batch_size=size))(llama, task, 0).scores for size in (5, 48)]
    assert asked == [5, 5, 48, 48]
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


def test_probes_of_exact_match_draw_wrong_answers_from_train_and_val(
    llama: TransformerBridge,
) -> None:
    task = colours_of_things()
    bare = [tuple(replace(e, incorrect=()) for e in task.train)]
    bare += [tuple(e for e in bare[0] if e.group == "sky")]  # all answer " blue."
    task = replace(task, train=bare[0], val=bare[1], val_as_test=bare[1])
    first, again = (selector("probes", DEFAULT)(llama, task, 0).scores for _ in range(2))
    assert torch.equal(first, again)


def test_top_of_random_scores_is_a_uniform_draw(llama: TransformerBridge) -> None:
    draws = [at_random()(llama, colours_of_things(), seed).top(k=3) for seed in range(240)]
    counts = Counter(head for heads in draws for head in heads)
    assert len(counts) == N_LAYERS * N_HEADS
    assert all(32 <= count <= 88 for count in counts.values())  # 60 expected, spread 6.7
    assert len(set(draws)) > 180  # 1,320 ordered draws are possible


def test_layer_matched_heads_have_the_layers_of_the_other_for_every_number_of_heads(
    llama: TransformerBridge,
) -> None:
    rng = random.Random(0)
    with_ties = torch.tensor(
        [[rng.choice([0.0, 1.0, 2.0]) for _ in range(N_HEADS)] for _ in range(N_LAYERS)]
    )
    task, chosen = colours_of_things(), set()
    for seed in range(20):
        scores = layer_matched(fixed(with_ties))(llama, task, seed)
        for k in range(1, N_LAYERS * N_HEADS + 1):
            expected = HeadScores(with_ties).top(k=k).layer_counts()
            assert scores.top(k=k).layer_counts().tolist() == expected.tolist()
        chosen.add(frozenset(scores.top(k=4)))
    assert len(chosen) > 5


def test_layer_matched_heads_are_drawn_uniformly_in_their_layers(llama: TransformerBridge) -> None:
    one_head = torch.zeros(N_LAYERS, N_HEADS)
    one_head[1, 2] = 1
    select = layer_matched(fixed(one_head))
    draws = Counter(select(llama, colours_of_things(), seed).top(k=1) for seed in range(240))
    assert {head.layer for heads in draws for head in heads} == {1}
    assert len(draws) == N_HEADS
    assert all(32 <= count <= 88 for count in draws.values())  # 60 expected, spread 6.7


@pytest.mark.parametrize("ending", [".npy", ".json"])
def test_a_list_from_a_file_keeps_its_order(
    llama: TransformerBridge, tmp_path: Path, ending: str
) -> None:
    heads = HeadSet([(2, 3), (0, 1), (1, 1), (0, 0)], n_layers=N_LAYERS, n_heads=N_HEADS)
    path = heads.save(tmp_path / f"heads{ending}")
    for select in (from_file(path), selector(str(path), DEFAULT)):
        scores = select(llama, colours_of_things(), 0)
        assert scores.top(k=4) == heads
        assert scores.top(k=2) == heads.first(2)
        assert scores.scores.count_nonzero() == 4


def test_a_list_of_another_model_is_refused(llama: TransformerBridge, tmp_path: Path) -> None:
    path = HeadSet([(5, 0)], n_layers=6, n_heads=N_HEADS).save(tmp_path / "heads.json")
    with pytest.raises(ModelMismatchError, match="6 layers"):
        from_file(path)(llama, colours_of_things(), 0)


def test_an_unknown_selector_is_refused_with_all_names() -> None:
    with pytest.raises(LofitLensError) as error:
        selector("best", DEFAULT)
    assert all(name in str(error.value) for name in ("'best'", *NAMES, ".npy"))


@pytest.mark.parametrize(
    "draw", [at_random(), layer_matched(fixed(torch.zeros(N_LAYERS, N_HEADS)))]
)
def test_a_negative_seed_is_refused(llama: TransformerBridge, draw: HeadSelector) -> None:
    with pytest.raises(LofitLensError, match="whole number from 0 to 4294967295, got -1"):
        draw(llama, colours_of_things(), -1)
