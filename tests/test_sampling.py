"""Tokens drawn by a seed of each prompt's own, and texts that end a generation."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lofit_lens.scoring.generation import generate_greedily, generations
from lofit_lens.scoring.sampling import Sampling, drawn
from tests.helpers import draw_edit

PROMPTS = ["The cat", "Anna has a son, Ben. Ben has", "The colour of the old house is"]


@pytest.mark.parametrize(
    ("how", "kept"),
    [({"temperature": 0.7}, None), ({"top_k": 3}, 3), ({"top_p": 0.6, "temperature": 2.0}, 0.6)],
)
def test_tokens_are_drawn_as_often_as_they_are_likely(llama: Any, how: Any, kept: Any) -> None:
    n = 4000
    ids = torch.tensor([llama.tokenizer(PROMPTS[0])["input_ids"]])
    logits = llama(ids)[0, -1] / how.get("temperature", 1.0)
    likely = logits.softmax(-1).sort(descending=True)
    if kept is not None:
        within = likely.values.cumsum(0) - likely.values < kept if kept < 1 else None
        likely.values[3 if within is None else int(within.sum()) :] = 0
    expected = torch.zeros_like(logits).scatter(0, likely.indices, likely.values)
    with drawn(llama, Sampling(range(n), **how), range(n)):
        new = llama.generate(
            ids.expand(n, -1), max_new_tokens=1, do_sample=False, stop_at_eos=False,
            return_type="tokens", verbose=False,
        )[:, -1]  # fmt: skip
    found = torch.bincount(new, minlength=len(expected)) / n
    assert (found - expected / expected.sum()).abs().sum() / 2 < 0.1
    assert not found[expected == 0].any()


def test_what_is_drawn_depends_on_the_seed_of_its_prompt_and_not_on_its_batch(llama: Any) -> None:
    edit = draw_edit(llama, scope="after_prompt")
    state = torch.get_rng_state()

    def texts(prompts: list[str], seeds: list[int], batch_size: int) -> list[str]:
        found = generations(
            llama, prompts, edit, sampling=Sampling(seeds, 1.5), batch_size=batch_size,
            progress=False,
        )  # fmt: skip
        return [one.text for one in found]

    whole = texts(PROMPTS, [1, 2, 3], 8)
    assert texts(PROMPTS[::-1], [3, 2, 1], 1) == whole[::-1]
    assert texts(PROMPTS, [1, 2, 4], 8)[:2] == whole[:2]
    assert len(set(texts(PROMPTS[:1] * 5, [1, 2, 3, 4, 5], 8))) == 5
    assert torch.equal(torch.get_rng_state(), state)


def test_a_text_that_ends_a_generation_is_looked_for_in_what_is_new(llama: Any) -> None:
    how: Any = {"max_new_tokens": 12, "progress": False}
    whole = generate_greedily(llama, PROMPTS, **how)
    stop = whole[0][4:6]
    found = generations(llama, PROMPTS, stop=[stop, "\0", PROMPTS[1][-3:]], **how)
    for before, after in zip(whole, found, strict=True):
        ended = stop in before
        assert after.text == before.partition(stop)[0]
        assert after.ended == ended and (after.n_new < 12 or not ended)
    assert found[0].ended and not all(one.ended for one in found)
    ids = [llama.tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    assert [one.n_prompt for one in found] == [len(each) for each in ids]
