"""Direct contributions against plain Hugging Face logits, hand-written products and TransformerLens."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from transformers.pytorch_utils import Conv1D

from lofit_lens.analysis.inside.decode.attribution import Attribution, direct_attribution
from lofit_lens.analysis.inside.decode.pairs import answer_pairs
from lofit_lens.errors import DataError, LofitLensError, UnsupportedError
from lofit_lens.model import load_model
from lofit_lens.statistics import crossed_interval
from lofit_lens.tasks import Example
from lofit_lens.tokens import Encoder
from tests.helpers import (
    D_MODEL,
    FAMILIES,
    N_HEADS,
    N_LAYERS,
    count_hooks,
    draw_edit,
    edited_plain,
    load_plain,
    plain_projections,
)

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Model = Callable[[str], "TransformerBridge"]
Folder = Callable[[str], Path]

ALLOWED = tuple(family for family in FAMILIES if family != "gemma2")
EXAMPLES = (
    Example("sky", "The colour of the sky is", (" blue.",), (" red.", " grey.")),
    Example("cat", "Q: Who lives in the house?\nA:", (" A grey cat.",), (" A grey house.",)),
    Example("ben", "Ben has a sister, Clara. Her name is", (" Clara.",), (" Ben.", " Anna.")),
)
SCOPES = ("all", "after_prompt", "last", "iti_compat")


def reached(scope: str, n: int, n_prompt: int) -> torch.Tensor:
    """Which of `n` positions a scope edits, from its definition."""
    place = torch.arange(n)
    return {
        "all": place >= 0,
        "after_prompt": place >= n_prompt - 1,
        "last": place == n_prompt - 1,
        "iti_compat": place >= n_prompt + 1,
    }[scope]


def plain_differences(folder: Path, encoder: Encoder, edit: Any = None) -> list[float]:
    """Right minus wrong logit of a plain model, text by text, under the oracle's edit."""
    plain, found = load_plain(folder), []
    for pair in answer_pairs(encoder, EXAMPLES):
        oracle = nullcontext()
        if edit is not None:
            where = partial(reached, edit.scope, n_prompt=pair.text.n_prompt)
            oracle = edited_plain(plain, edit, where=where)
        with torch.no_grad(), oracle:
            logits = plain(torch.tensor([pair.text.ids])).logits[0, -1]
        found.append(float(logits[pair.right] - logits[pair.wrong]))
    return found


def term(found: Attribution, values: Any, kind: str, layer: int | None = None) -> torch.Tensor:
    """The columns of one kind, and of one layer."""
    columns = [i for i, c in enumerate(found.components) if (c.kind, c.layer) == (kind, layer)]
    return values[:, columns]


@pytest.mark.parametrize("family", ALLOWED)
def test_contributions_sum_to_the_logit_difference_of_hugging_face(
    tiny_folder: Folder, tiny_model: Model, family: str
) -> None:
    model = tiny_model(family)
    edit, encoder, folder = draw_edit(model), Encoder(model), tiny_folder(family)
    found = direct_attribution(model, EXAMPLES, edit, batch_size=2)
    assert found.after is not None
    before, after = plain_differences(folder, encoder), plain_differences(folder, encoder, edit)
    assert np.abs(np.subtract(after, before)).max() > 0.1
    np.testing.assert_allclose(found.before.sum(1), before, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.after.sum(1), after, rtol=0, atol=1e-5)
    frame = found.differences()
    np.testing.assert_allclose(frame["change"], np.subtract(after, before), rtol=0, atol=2e-5)


@pytest.mark.parametrize("scope", SCOPES)
def test_the_scope_of_an_edit_is_kept(
    tiny_folder: Folder, llama: TransformerBridge, scope: str
) -> None:
    edit = draw_edit(llama, scope=scope)
    found = direct_attribution(llama, EXAMPLES, edit)
    assert found.after is not None
    expected = plain_differences(tiny_folder("llama"), Encoder(llama), edit)
    np.testing.assert_allclose(found.after.sum(1), expected, rtol=0, atol=1e-5)
    own = torch.cat([term(found, found.after, "offset", layer) for layer in (0, 2)], dim=1)
    texts = [pair.text for pair in answer_pairs(Encoder(llama), EXAMPLES)]
    edited = [bool(reached(scope, len(text.ids), text.n_prompt)[-1]) for text in texts]
    assert own.any(1).tolist() == edited
    assert set(edited) == ({True} if scope in ("all", "after_prompt") else {True, False})


def test_every_part_is_the_product_of_hugging_face_weights_and_activations(
    tiny_folder: Folder, tiny_model: Model
) -> None:
    for family in ("llama", "gpt2", "neox"):
        model, plain = tiny_model(family), load_plain(tiny_folder(family))
        edit = draw_edit(model)
        found = direct_attribution(model, EXAMPLES, edit)
        assert found.after is not None
        for row, pair in enumerate(answer_pairs(Encoder(model), EXAMPLES)):
            seen = plain_activations(plain, pair.text.ids, edit)
            unembedding = plain.get_output_embeddings().weight.double()
            reading = (unembedding[pair.right] - unembedding[pair.wrong]).detach()
            norm = seen["norm"]
            bias = 0.0 if family == "llama" else float(norm.bias.detach().double() @ reading)
            reading = reading * norm.weight.detach().double()
            x = seen["final"]
            if family == "llama":
                scale = (x.square().mean() + norm.variance_epsilon).sqrt()
            else:
                reading = reading - reading.mean()
                scale = ((x - x.mean()).square().mean() + norm.eps).sqrt()
            reading = reading / scale

            def same(values: torch.Tensor, expected: Any, row: int = row) -> None:
                np.testing.assert_allclose(values[row], expected, rtol=0, atol=1e-5)

            same(term(found, found.after, "embedding"), [seen["embedding"] @ reading])
            same(term(found, found.after, "output bias"), [bias])
            for layer, projection in enumerate(plain_projections(plain)):
                weight: Any = projection.weight.detach().double()  # pyright: ignore
                weight = weight if isinstance(projection, Conv1D) else weight.T
                per_head = weight.unflatten(0, (N_HEADS, -1)) @ reading
                after = seen["z", layer].unflatten(0, (N_HEADS, -1))
                of_heads = term(found, found.after, "head", layer).clone()
                for kind, change in (("scale", edit.scale), ("offset", edit.bias)):
                    shares = term(found, found.after, kind, layer)
                    for column, (rank, head) in enumerate(edit.heads.in_layer(layer)):
                        z = (after[head] - edit.bias[rank]) / (1 + edit.scale[rank])
                        part = change[rank].double() * (z if kind == "scale" else 1)
                        same(shares[:, column : column + 1], [part @ per_head[head]])
                        of_heads[:, head] += shares[:, column]
                same(of_heads, (after * per_head).sum(-1))
                b_o = projection.bias
                expected = 0.0 if b_o is None else b_o.detach().double() @ reading  # pyright: ignore
                same(term(found, found.after, "attention bias", layer), [float(expected)])
                same(term(found, found.after, "mlp", layer), [seen["mlp", layer] @ reading])


def plain_activations(plain: Any, ids: tuple[int, ...], edit: Any) -> dict[Any, Any]:
    """What a plain model computes at the last token, by hooks of PyTorch, in float64."""
    base = getattr(plain, plain.base_model_prefix)
    blocks = base.h if hasattr(base, "h") else base.layers
    norm = next(getattr(base, n) for n in ("norm", "ln_f", "final_layer_norm") if hasattr(base, n))
    seen: dict[Any, Any] = {"norm": norm}
    handles = []

    def inputs(name: Any, module: Any) -> None:
        def read(_: Any, args: Any, kwargs: Any) -> None:
            given = args[0] if args else kwargs["hidden_states"]
            seen[name] = given[0, -1].detach().double()

        handles.append(module.register_forward_pre_hook(read, with_kwargs=True))

    inputs("embedding", blocks[0])
    inputs("final", norm)
    with edited_plain(plain, edit):
        for layer, block in enumerate(blocks):
            inputs(("z", layer), plain_projections(plain)[layer])

            def read(_: Any, args: Any, output: Any, layer: int = layer) -> None:
                seen["mlp", layer] = output[0, -1].detach().double()

            handles.append(block.mlp.register_forward_hook(read))
        with torch.no_grad():
            plain(torch.tensor([list(ids)]))
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("family", ["llama", "gpt2", "neox"])
def test_layers_agree_with_transformer_lens_on_processed_weights(
    tiny_model: Model, family: str
) -> None:
    from transformer_lens.tools.analysis import direct_logit_attribution

    model = tiny_model(family)
    found = direct_attribution(model, EXAMPLES)
    model.enable_compatibility_mode(disable_warnings=True)
    for row, pair in enumerate(answer_pairs(Encoder(model), EXAMPLES)):
        theirs = direct_logit_attribution(
            model,
            torch.tensor([pair.text.ids]),
            answer_tokens=torch.tensor([pair.right]),
            incorrect_tokens=torch.tensor([pair.wrong]),
        )
        by_name = dict(zip(theirs.labels, theirs.attribution.flatten().tolist(), strict=True))
        embedding = by_name["embed"] + by_name.get("pos_embed", 0.0)
        ours = found.before[row : row + 1]
        assert float(term(found, ours, "embedding")) == pytest.approx(embedding, abs=2e-5)
        for layer in range(N_LAYERS):
            attention = term(found, ours, "head", layer).sum()
            attention += term(found, ours, "attention bias", layer).sum()
            assert float(attention) == pytest.approx(by_name[f"{layer}_attn_out"], abs=2e-5)
            mlp = term(found, ours, "mlp", layer)
            assert float(mlp) == pytest.approx(by_name[f"{layer}_mlp_out"], abs=2e-5)


def test_the_batch_size_changes_nothing(llama: TransformerBridge) -> None:
    edit = draw_edit(llama, scope="after_prompt")
    one, all_at_once = (direct_attribution(llama, EXAMPLES, edit, batch_size=n) for n in (1, 3))
    assert one.after is not None
    assert all_at_once.after is not None
    torch.testing.assert_close(one.before, all_at_once.before, rtol=0, atol=1e-5)
    torch.testing.assert_close(one.after, all_at_once.after, rtol=0, atol=1e-5)


def test_nothing_stays_attached(llama: TransformerBridge) -> None:
    llama(torch.tensor([[3, 4]]))  # `transformers` attaches hooks of its own to the first forward
    before = count_hooks(llama)
    direct_attribution(llama, EXAMPLES, draw_edit(llama, scope="last"))
    assert count_hooks(llama) == before


def test_a_norm_behind_attention_is_refused(tiny_model: Model) -> None:
    with pytest.raises(UnsupportedError, match=r"ln1_post, ln2_post.*no contribution of its own"):
        direct_attribution(tiny_model("gemma2"), EXAMPLES)


def test_a_soft_cap_of_the_logits_is_refused(llama: TransformerBridge) -> None:
    llama.cfg.output_logits_soft_cap = 30.0
    with pytest.raises(UnsupportedError, match="caps or scales the logits"):
        direct_attribution(llama, EXAMPLES)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_something_written_beside_the_components_is_refused(
    tiny_folder: Folder, family: str, dtype: Any
) -> None:
    model = load_model(tiny_folder(family), device="cpu", dtype=dtype)
    direct_attribution(model, EXAMPLES, draw_edit(model))  # rounding alone is not refused

    def push(residual: Any, hook: Any = None) -> Any:
        return residual + torch.linspace(-1, 1, D_MODEL).to(residual)

    with (
        model.hooks(fwd_hooks=[("blocks.2.hook_in", push)]),
        pytest.raises(UnsupportedError, match="something stands between"),
    ):
        direct_attribution(model, EXAMPLES)


@pytest.mark.parametrize(
    ("prompt", "right", "wrong"),
    [("The sky is", " blue.", " blue. Not"), ("The sky is", " blue.", " blue.")],
)
def test_answers_that_do_not_part_are_refused(
    llama: TransformerBridge, prompt: str, right: str, wrong: str
) -> None:
    with pytest.raises(DataError, match="do not part"):
        direct_attribution(llama, [Example("a", prompt, (right,), (wrong,))])


def test_an_example_without_a_wrong_answer_is_refused(llama: TransformerBridge) -> None:
    with pytest.raises(DataError, match="Example a has no incorrect answer"):
        direct_attribution(llama, [Example("a", "The sky is", (" blue.",))])
    with pytest.raises(DataError, match="no example"):
        direct_attribution(llama, [])


def test_the_pair_is_cut_at_the_first_token_that_differs(llama: TransformerBridge) -> None:
    encoder = Encoder(llama)
    (pair,) = answer_pairs(encoder, EXAMPLES[1:2])
    text = encoder.decode(pair.text.ids)
    assert text == "Q: Who lives in the house?\nA: A grey"
    assert encoder.decode([pair.right]).strip() == "cat"
    assert pair.text.n_prompt == len(encoder.prompt(EXAMPLES[1].prompt).ids)


def test_the_frame_holds_means_and_intervals_over_groups(llama: TransformerBridge) -> None:
    groups = ["a", "a", "b", "c"]
    examples = [
        Example(str(i), EXAMPLES[i % 3].prompt, EXAMPLES[i % 3].correct, (wrong,), group)
        for i, (wrong, group) in enumerate(zip((" red.", " Anna.", " no.", " a"), groups, strict=True))
    ]  # fmt: skip
    found = direct_attribution(llama, examples, draw_edit(llama))
    assert found.after is not None
    frame = found.frame()
    assert len(frame) == 2 + N_LAYERS * (N_HEADS + 2) + 2 * 4
    assert frame["name"].is_unique
    np.testing.assert_allclose(frame["change"], frame["after"] - frame["before"], atol=1e-7)
    np.testing.assert_allclose(frame["after"], found.after.mean(0), atol=1e-6)
    row = frame[frame["name"] == "L1 mlp"].to_dict("records")[0]
    expected = crossed_interval(
        term(found, found.before, "mlp", 1).T.double().numpy(), groups=groups, resamples=20_000
    )
    width = expected.high - expected.low
    assert width > 0
    assert row["before_low"] == pytest.approx(expected.low, abs=0.1 * width)
    assert row["before_high"] == pytest.approx(expected.high, abs=0.1 * width)
    alone = direct_attribution(llama, examples[:2]).frame()
    assert alone["before_low"].isna().all()
    assert "after" not in alone


def test_the_figure_adds_scale_and_offset_to_their_head(llama: TransformerBridge) -> None:
    found = direct_attribution(llama, EXAMPLES, draw_edit(llama))
    assert found.after is not None
    traces: Any = found.plot(values="after").data
    heat, mlp = traces  # no attention bias in this family
    expected = torch.stack(
        [term(found, found.after, "head", layer) for layer in range(N_LAYERS)], 1
    )
    for kind in ("scale", "offset"):
        for layer, heads in ((0, (3, 0)), (2, (1, 2))):
            expected[:, layer, list(heads)] += term(found, found.after, kind, layer)
    np.testing.assert_allclose(heat.z, expected.mean(0), atol=1e-6)
    assert list(mlp.y) == [0, 1, 2]
    assert "offset" in heat.text[0][3]
    assert "offset" not in heat.text[0][1]
    with pytest.raises(LofitLensError, match="values must be one of before, got 'change'"):
        direct_attribution(llama, EXAMPLES).plot(values="change")
