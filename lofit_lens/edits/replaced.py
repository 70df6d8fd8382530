"""Another method of an object, for the time of a context."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def replaced(owner: Any, name: str, method: Callable[..., Any]) -> Iterator[None]:
    """Let an object, such as a module, have another method inside the context; contexts nest.

    Args:
        owner: The object; its class, and the parameters of a module, stay as they are.
        name: Name of the method.
        method: What is called in its place, without the object as first argument.
    """
    outer = owner.__dict__.get(name)
    owner.__dict__[name] = method
    try:
        yield
    finally:
        if outer is None:
            del owner.__dict__[name]
        else:
            owner.__dict__[name] = outer
