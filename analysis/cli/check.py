"""The command `check`."""

from __future__ import annotations

from typing import Annotated

import typer

from lofit_lens.analysis.cli.console import Report
from lofit_lens.analysis.cli.groups import option, with_options


@with_options
def check(
    model: Annotated[
        str,
        typer.Argument(
            help="embedded, a folder in Hugging Face format, its config.json alone, a .gguf file, or a "
            "name on the hub."
        ),
    ],
    *,
    report: Report,
    device: Annotated[str | None, option("cpu, cuda, cuda:1, … (default: CUDA if any)")] = None,
    dtype: Annotated[str | None, option("float32, bfloat16 or float16.")] = None,
    revision: Annotated[str | None, option("Branch, tag or commit on the hub.")] = None,
    batch_size: Annotated[int, option("Texts per forward pass in scoring.")] = 32,
    length: Annotated[
        int | None, option("Tokens of a text. (default: 512, or the context)")
    ] = None,
) -> None:
    """What a model is, what it needs, and what can be done with it.

    Family, layers and heads, parameters, memory for scoring and for both stages, tokenizer, fast paths,
    export, and which servers read an exported edit. It reads the configuration, and loads the model
    where its weights are there and fit. Exit code 1, with the reason, for a model that cannot be used.
    """
    from lofit_lens.checking.model_check import check_model

    found = check_model(
        model,
        device=device,
        dtype=dtype,  # pyright: ignore[reportArgumentType]
        revision=revision,
        batch_size=batch_size,
        length=length,
    )
    report.add(repr(found), **found.to_json())
