"""Keys: what a result depends on, as plain JSON values, and the hash of them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from lofit_lens.training.config import SAME


def as_json(value: Any) -> Any:
    """A value as plain JSON values; of a dataclass the fields that results depend on.

    Those are the ones that count when two are compared, but for fields with `SAME` as metadata.

    Args:
        value: Strings, numbers, dataclasses, and mappings and sequences of them.
    """
    if is_dataclass(value) and not isinstance(value, type):
        told = [f.name for f in fields(value) if f.compare and f.metadata != SAME]
        return {name: as_json(getattr(value, name)) for name in told}
    if isinstance(value, Mapping):
        return {str(name): as_json(inside) for name, inside in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(inside) for inside in value]
    return str(value) if isinstance(value, Path) else value


def key_of(value: Any) -> str:
    """SHA-256 over a value as JSON, whatever the order of its names."""
    text = json.dumps(as_json(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Where two mappings differ, by names such as "recipe.tuning.learning_rate"."""
    found = []
    for name in dict.fromkeys((*one, *other)):
        mine, theirs = one.get(name), other.get(name)
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            found += [f"{name}.{inside}" for inside in differences(mine, theirs)]
        elif mine != theirs:
            found.append(name)
    return found


def plain(name: str) -> str:
    """A name as part of a file name."""
    return re.sub(r"[^\w.-]+", "-", name)
