"""Groups of options as dataclasses: put into the signature that typer reads, handed over filled."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from lofit_lens.analysis.cli.console import Report, command


def option(text: str, panel: str | None = None, *names: str, **more: Any) -> Any:
    """An option of a group, under a heading of its own in the help."""
    return typer.Option(*names, help=text, rich_help_panel=panel, **more)


Out = Annotated[Path, option("Folder to write to.")]
Overwrite = Annotated[bool, option("Replace a finished run in --out.")]
Heads = Annotated[
    str,
    option(
        "What scores the heads: lofit (stage 1), bias-norm, probes, probe-layers, gates, "
        "attribution, random or layer-matched."
    ),
]
Seeds = Annotated[int, option("How many seeds, from --seed on.", min=1)]


@dataclasses.dataclass(frozen=True)
class Output:
    """What is printed; the options of every command."""

    as_json: Annotated[bool, option("Print one JSON document.", None, "--json")] = False
    quiet: Annotated[
        bool, option("No progress bars or messages of progress.", None, "--quiet", "-q")
    ] = False


def with_options(body: Callable[..., None]) -> Callable[..., None]:
    """Make a command of a body: with the options of its groups, its output and its errors in order.

    Args:
        body: What receives its own options one by one, each argument that is a dataclass filled, and
            a report as `report`; see `console.command`.
    """
    hints = get_type_hints(body, include_extras=True)
    asked = inspect.signature(body).parameters
    groups = {name: hints[name] for name in asked if dataclasses.is_dataclass(hints[name])}
    own = [
        parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in asked.items()
        if name not in groups and hints[name] is not Report
    ]
    shared = {
        f.name: inspect.Parameter(
            f.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=f.default,
            annotation=get_type_hints(group, include_extras=True)[f.name],
        )
        for group in (*groups.values(), Output)
        for f in dataclasses.fields(group)
    }

    @functools.wraps(body)
    def run(*, as_json: bool, quiet: bool, **values: Any) -> None:
        filled = {
            name: group(**{f.name: values.pop(f.name) for f in dataclasses.fields(group)})
            for name, group in groups.items()
        }
        with command(as_json, quiet) as report:
            body(report=report, **filled, **values)

    run.__signature__ = inspect.Signature([*own, *shared.values()])  # pyright: ignore[reportAttributeAccessIssue]
    run.__annotations__ = {p.name: p.annotation for p in (*own, *shared.values())}
    return run
