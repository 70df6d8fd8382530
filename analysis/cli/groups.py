"""Groups of options as dataclasses: put into the signature that typer reads, handed over filled."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints


def with_options(**groups: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of some groups; it receives each group as an argument.

    Args:
        groups: The name of the command's argument and its dataclass.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = {
            name: parameter.replace(annotation=get_type_hints(command, include_extras=True)[name])
            for name, parameter in inspect.signature(command).parameters.items()
            if name not in groups
        }
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

        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own.values()]
        run.__signature__ = inspect.Signature([*parameters, *shared.values()])  # pyright: ignore[reportAttributeAccessIssue]
        run.__annotations__ = {p.name: p.annotation for p in (*parameters, *shared.values())}
        return run

    return decorate
