from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import floor, memory, models, peers, placing, probes, report, run, texts
from benchmarks.measuring import Check, Claim, Part, Result, Rival, measure
from lofit_lens.analysis.published import figure_3
from tests.helpers import type_checks_off

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def results() -> Iterator[dict[str, Result]]:
    """The whole suite on the tiny shape, one round, on made-up texts."""
    parts = [*run.PARTS, run.PROBES]
    with type_checks_off(), pytest.MonkeyPatch.context() as patch:  # as `make bench` runs it
        patch.setattr(probes, "peak_memory", lambda *_: (0.1, 0.2))  # in processes of its own
        found = run.run(
            ["tiny"], parts, texts.made_up_texts(shots=60), rounds=1, device="cpu", n_heads=32
        )
        yield dict(zip(parts, (result for _, result in found), strict=True))


@pytest.mark.parametrize(
    ("part", "rivals", "claims"),
    [
        ("scoring", 4, 2),
        ("steps", 9, 5),
        ("after_prompt", 2, 1),
        ("every_layer", 2, 1),
        ("together", 2, 1),
        ("probes", 6, 2),
    ],
)
def test_every_part_gives_its_rows_and_rivals_agree(
    results: dict[str, Result], part: str, rivals: int, claims: int
) -> None:
    result = results[part]
    assert len(result.rows) == rivals
    assert len(result.verdicts) == claims
    assert result.checks
    assert not [check for check in result.checks if not check.holds]
    assert all(row.seconds > 0 and math.isfinite(row.ratio.median) for row in result.rows)


def test_training_steps_report_memory_and_scoring_a_floor(results: dict[str, Result]) -> None:
    for part in ("steps", "after_prompt", "every_layer"):
        ours = results[part].rows[0]
        assert ours.saved
        assert ours.floor_share
    assert results["scoring"].rows[0].floor_share
    after = {row.name: row for row in results["after_prompt"].rows}
    assert after["ours, scope after_prompt"].saved < after["ours, scope all"].saved  # pyright: ignore[reportOperatorIssue]


def test_tables_are_stored_for_people_and_for_programs(
    results: dict[str, Result], tmp_path: Path
) -> None:
    report.store(tmp_path / "out", {"device": "this one"}, {"tiny": list(results.values())})
    stored = json.loads((tmp_path / "out" / "benchmarks.json").read_text())
    assert [part["title"] for part in stored["results"]["tiny"]] == [
        result.title for result in results.values()
    ]
    assert all("holds" in verdict for verdict in stored["results"]["tiny"][0]["verdicts"])
    table = (tmp_path / "out" / "benchmarks.md").read_text()
    for result in results.values():
        assert result.title in table
        assert all(row.name in table for row in result.rows)


def test_storages_kept_for_backward_count_once_and_weights_do_not() -> None:
    layer = torch.nn.Linear(100, 100)
    x = torch.randn(50, 100, requires_grad=True)

    def step() -> None:
        hidden = layer(x).exp()  # keeps x, the weight and its own result
        (hidden * hidden.view(100, 50).view(50, 100)).sum().backward()  # one storage twice

    assert memory.saved_for_backward(step) == 2 * 50 * 100 * 4


def test_memory_is_free_again_after_each_backward_pass() -> None:
    def steps() -> None:
        for _ in range(3):
            torch.randn(1000, requires_grad=True).exp().sum().backward()

    assert memory.saved_for_backward(steps) == 1000 * 4


def test_the_peak_of_memory_is_what_was_allocated() -> None:
    with memory.peak_memory(CPU) as peak:
        torch.ones(20_000_000).sum()
    found = peak()
    assert found is None or 75e6 < found < 120e6


def test_the_floor_of_a_step_is_a_little_below_what_torch_counts(tmp_path: Path) -> None:
    subject = models.load_subject("tiny", texts.made_up_texts(shots=60), "cpu", tmp_path)
    assert subject is not None
    config = subject.plain.config
    bias = torch.zeros(config.num_hidden_layers, config.num_attention_heads, config.head_dim)
    model = subject.copy()
    peers.written_in(model, None, bias.requires_grad_(True))
    tokens = torch.randint(2, 500, (4, 32))
    with FlopCounterMode(display=False) as counter:
        model(tokens, use_cache=False).logits.logsumexp(-1).sum().backward()
    counted = counter.get_total_flops()
    lowest = floor.step_flops(config, 0, tokens.numel(), tokens.numel())
    # what is left: attention scores, queries and keys of the first layer
    assert 0.75 * counted < lowest < counted


def test_the_heads_of_a_7b_are_those_of_figure_3() -> None:
    config = SimpleNamespace(num_hidden_layers=32, num_attention_heads=32)
    counts = placing.as_in_figure_3(config).layer_counts()
    panel = figure_3().query("model == 'llama2-7b' and task == 'truthfulqa'")
    printed = dict(zip(panel["layer"], panel["heads"], strict=True))
    assert {i: n for i, n in enumerate(counts) if n} == printed
    config = SimpleNamespace(num_hidden_layers=40, num_attention_heads=40)
    assert placing.as_in_figure_3(config).layer_counts().sum() == 48


def test_a_small_model_has_its_lowest_head_at_the_same_depth() -> None:
    config = SimpleNamespace(num_hidden_layers=16, num_attention_heads=16)
    heads = placing.as_in_figure_3(config)
    assert len(heads) == 8
    assert heads.layers()[0] == 1  # 2 of 32
    assert heads.layers()[-1] == 13  # 27 of 32
    assert placing.evenly(config, lowest=8).layers()[0] == 8


def test_rivals_take_turns_and_a_share_of_the_work_is_scaled_up() -> None:
    turns: list[str] = []

    def rival(name: str, share: float) -> Rival:
        def run() -> str:
            turns.append(name)
            torch.mm(torch.randn(300, 300), torch.randn(300, 300))
            return name

        return Rival(run, share=share)

    part = Part(
        "two ways", {"a": rival("a", 1.0), "b": rival("b", 0.001)}, [Claim("a", "b", 0.5)],
        lambda returned: [Check(returned["a"] + returned["b"], 0.0, 1.0)], tokens=1,
    )  # fmt: skip
    result = measure(part, 2, CPU, 1e9)
    assert turns == ["a", "b", "a", "b", "b", "a"]
    assert result.verdicts[0].holds
    assert result.checks == [Check("ab", 0.0, 1.0)]
