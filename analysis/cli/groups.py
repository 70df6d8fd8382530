"""Groups of options as dataclasses: put into the signature that typer reads, handed over filled."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of its groups, which are its arguments that are dataclasses.

    Args:
        command: What receives each group filled, and its own options one by one.
    """
    hints = get_type_hints(command, include_extras=True)
    asked = inspect.signature(command).parameters
    groups = {name: hints[name] for name in asked if dataclasses.is_dataclass(hints[name])}
    own = [
        parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in asked.items()
        if name not in groups
    ]
    shared = {
        f.name: inspect.Parameter(
            f.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=f.default,
            annotation=get_type_hints(group, include_extras=True)[f.name],
        )
        for group in groups.values()
        for f in dataclasses.fields(group)
    }

    @functools.wraps(command)
    def run(**values: Any) -> None:
        filled = {
            name: group(**{f.name: values.pop(f.name) for f in dataclasses.fields(group)})
            for name, group in groups.items()
        }
        command(**filled, **values)

    run.__signature__ = inspect.Signature([*own, *shared.values()])  # pyright: ignore[reportAttributeAccessIssue]
    run.__annotations__ = {p.name: p.annotation for p in (*own, *shared.values())}
    return run
