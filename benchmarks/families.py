"""Every family on a tiny random model: does it work here, or with which message is it refused?

    python benchmarks/families.py            # all, and docs/guide/families.md is written anew
    python benchmarks/families.py Qwen3.5    # some, on the screen only

It ends with an error if a family fails in any other way than by a message of ours, or computes
something else than plain Hugging Face with a forward pre-hook on the output projection.
"""

from __future__ import annotations

import logging
import re
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1]))

import lofit_lens as ll
from benchmarks.families_page import write_page
from benchmarks.family_configs import CONFIGS, N_HEADS, config_of
from lofit_lens.attention import heads_of, z_widths
from lofit_lens.errors import LofitLensError
from lofit_lens.tasks import MultipleChoice
from lofit_lens.tokens import Encoder
from tests.helpers import build_tokenizer, draw_edit, draw_parameters, draw_tokens

CLOSE, CLOSE_FAST = 2e-5, 1e-3
"""Largest differences allowed, relative to the largest logit, and in log-probabilities."""

PROMPTS = ("The colour of the sky is", "Anna has a son, Ben. Ben")


@dataclass(frozen=True)
class Row:
    """What was found for a family.

    Attributes:
        family: Its name.
        architecture: Class of the Hugging Face model.
        heads: Layers x heads and the width of z, as read from the model.
        edit: Largest difference of an edited logit from plain Hugging Face, relative to the largest.
        fast: Largest difference of a log-probability between the fast paths and the plain one.
        stages: Whether both stages train, and scores and edit survive a save.
        generation: Whether greedy tokens are those of plain Hugging Face.
        export: Difference of the exported checkpoint, or why there is none.
        refused: Why it does not load.
        error: What went wrong otherwise.
    """

    family: str
    architecture: str = ""
    heads: str = ""
    edit: float | None = None
    fast: float | None = None
    stages: bool = False
    generation: bool = False
    export: str = ""
    refused: str = ""
    error: str = ""

    @property
    def passes(self) -> bool:
        """Whether all is as it should be: it works, or is refused by name."""
        if self.error or self.edit is None or self.fast is None:
            return bool(self.refused) and not self.error
        return self.edit < CLOSE and self.fast < CLOSE_FAST and self.stages and self.generation


def try_family(family: str, folder: Path) -> Row:
    """Try all of it on one family."""
    row = Row(family)
    try:
        save_tiny(family, folder / "model")
        try:
            model = ll.load_model(folder / "model", device="cpu", dtype="float32")
        except LofitLensError as error:
            return replace(row, refused=one_line(error))
        row = replace(row, heads=_described(model), architecture=str(model.cfg.architecture))
        plain = load_plain(folder / "model")
        edit = draw_edit(model, heads=some_heads(model))
        row = replace(row, edit=edit_difference(model, plain, edit))
        row = replace(row, fast=fast_difference(model, edit))
        row = replace(row, generation=_generates_alike(model, plain, edit))
        row = replace(row, stages=_both_stages(model, folder))
        try:
            report = ll.export_checkpoint(model, edit, folder / "export")
            difference = report.max_logit_difference / report.largest_logit
            row = replace(row, export=f"{difference:.0e} as {report.architecture}")
        except LofitLensError as error:
            row = replace(row, export=f"no: {one_line(error)}")
    except Exception as error:
        traceback.print_exc()
        row = replace(row, error=f"{type(error).__name__}: {one_line(error)}")
    return row


def save_tiny(family: str, folder: Path) -> Path:
    """Save a random model of a family, every parameter drawn, and a tokenizer."""
    config = config_of(family)
    kind = transformers.AutoModelForCausalLM
    for auto in (
        kind,
        transformers.AutoModelForSeq2SeqLM,
        transformers.AutoModelForImageTextToText,
    ):
        if type(config) in auto._model_mapping:
            kind = auto
            break
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind.from_config(config)
        draw_parameters(model)
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


def load_plain(folder: Path) -> Any:
    """The same model in plain `transformers`, with eager attention."""
    config: Any = transformers.AutoConfig.from_pretrained(folder)
    kind = getattr(transformers, config.architectures[0])
    return kind.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()


def plain_projections(plain: Any) -> dict[int, Any]:
    """The output projections of a plain model by layer, found by their names."""
    name = re.compile(
        r"\.(\d+)\.(?:self_)?(?:attn|attention)(?:\.attention)?\.(?:o_proj|out_proj|c_proj|dense)$"
    )
    found = {}
    for path, module in plain.named_modules():
        match = name.search(path)
        if match and "vision" not in path:
            found[int(match[1])] = module
    return found


@contextmanager
def edited_plain(plain: Any, edit: ll.HeadIntervention) -> Iterator[None]:
    """The oracle: `z * (1 + A) + v` by a pre-hook on each output projection."""

    def pre_hook(layer: int) -> Callable[..., tuple[Any, ...]]:
        def change(_module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
            z = args[0].unflatten(-1, (N_HEADS, -1)).clone()
            for rank, head in edit.heads.in_layer(layer):
                width = z.shape[-1]
                assert edit.scale is not None and edit.bias is not None
                changed = z[..., head, :] * (1 + edit.scale[rank, :width])
                z[..., head, :] = changed + edit.bias[rank, :width]
            return (z.flatten(-2), *args[1:])

        return change

    projections = plain_projections(plain)
    assert set(edit.heads.layers()) <= set(projections)
    handles = [p.register_forward_pre_hook(pre_hook(i)) for i, p in projections.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def some_heads(model: Any) -> list[tuple[int, int]]:
    """Two heads of the first layer that has some and one of the last, and of one of another width."""
    layers, widths = heads_of(model).layers, z_widths(model)
    other = [i for i in layers if widths[i] != widths[layers[-1]]][-1:]
    return list(
        dict.fromkeys([(layers[0], 3), (layers[-1], 1), (layers[0], 0), *((i, 2) for i in other)])
    )


@torch.no_grad()
def edit_difference(model: Any, plain: Any, edit: ll.HeadIntervention) -> float:
    """Of the edited logits, relative to the largest; the edit must change them."""
    tokens = draw_tokens(length=24)
    with edit.applied(model):
        ours = model(tokens)
    clean = plain(tokens).logits
    with edited_plain(plain, edit):
        theirs = plain(tokens).logits
    assert not torch.allclose(clean, theirs), "the edit changes nothing"
    return float((ours - theirs).abs().max() / theirs.abs().max())


def fast_difference(model: Any, edit: ll.HeadIntervention) -> float:
    """Of log-probabilities of candidates, and of the first losses of training, by either path."""

    def numbers() -> torch.Tensor:
        records = ll.evaluate(model, small_task(), edit, progress=False).records
        found = [value for r in records for kind in ("correct", "incorrect") for value in r[kind]]
        config = ll.TuningConfig(epochs=1, batch_size=4, validate=False)
        tuned = ll.tune_heads(model, small_task(), edit.heads, config, progress=False)
        assert tuned.provenance is not None
        return torch.tensor(found + list(tuned.provenance.history.loss))

    fast = numbers()
    with ll.shortcuts(False):
        return float((fast - numbers()).abs().max())


@torch.no_grad()
def _generates_alike(model: Any, plain: Any, edit: ll.HeadIntervention) -> bool:
    ours = ll.generate_greedily(model, PROMPTS, edit, max_new_tokens=8, progress=False)
    encoder, tokenizer = Encoder(model), model.tokenizer
    theirs = []
    with edited_plain(plain, edit):
        for prompt in PROMPTS:
            ids = list(encoder.prompt(prompt).ids)
            start = len(ids)
            while len(ids) < start + 8 and ids[-1] != 1:
                ids.append(int(plain(torch.tensor([ids])).logits[0, -1].argmax()))
            theirs.append(tokenizer.decode(ids[start:], skip_special_tokens=True))
    return ours == theirs


def _both_stages(model: Any, folder: Path) -> bool:
    """Select, tune and score on a task of four items, save all and read it again."""
    task = small_task()
    config: dict[str, Any] = {"epochs": 1, "batch_size": 4}
    run = ll.lofit(
        model, task, k=3, random_draws=1, progress=False, out=folder / "run",
        selection=ll.SelectionConfig(**config), tuning=ll.TuningConfig(learning_rate=0.1, **config),
    )  # fmt: skip
    again = ll.LofitRun.load(folder / "run", model)
    tuned = again.intervention
    assert tuned.bias is not None and run.intervention.bias is not None
    alike = torch.equal(tuned.bias, run.intervention.bias) and tuned.heads == run.heads
    scores = torch.equal(again.scores.scores.nan_to_num(), run.scores.scores.nan_to_num())
    moved = bool((tuned.bias.abs().sum(-1) > 0.1).all())
    grid = heads_of(model)
    return (
        alike and scores and moved and run.scores.grid == grid and all(h in grid for h in run.heads)
    )


def small_task() -> ll.Task:
    """Which colour a thing has."""
    colours = {"sky": " blue.", "cat": " grey.", "house": " red.", "sister": " old."}
    train, val, test = (
        tuple(
            ll.Example(
                f"{start} {thing}", f"{start} {thing} is", (colour,),
                tuple(other for other in colours.values() if other != colour),
            )
            for thing, colour in colours.items()
        )
        for start in ("The", "Her", "An old")
    )  # fmt: skip
    return ll.Task(
        name="things", train=train, val=val, test=test, val_as_test=val, objective="sft",
        scoring=MultipleChoice(),
    )  # fmt: skip


def _described(model: Any) -> str:
    grid = heads_of(model)
    widths = sorted({width for width in z_widths(model) if width})
    layers = str(grid.n_layers)
    if grid.without:
        layers = f"{len(grid.layers)} of {grid.n_layers}"
    return f"{layers} x {grid.n_heads}, {' and '.join(map(str, widths))}"


def one_line(error: BaseException) -> str:
    """A message without line breaks."""
    return " ".join(str(error).split())


def main(names: Sequence[str]) -> int:
    """Try the families, print a line for each, and write the page if all were tried."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    rows = []
    for family in names or CONFIGS:
        with tempfile.TemporaryDirectory() as folder:
            row = try_family(family, Path(folder))
        rows.append(row)
        print("ok  " if row.passes else "FAIL", row, flush=True)
    if not names:
        write_page(rows)
    failed = [row.family for row in rows if not row.passes]
    print(f"{len(rows) - len(failed)} of {len(rows)} pass or are refused by name", *failed)
    return len(failed)


if __name__ == "__main__":
    sys.exit(bool(main(sys.argv[1:])))
