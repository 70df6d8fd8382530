"""Pieces of HTML; every text that comes from data is escaped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from numbers import Real
from typing import TYPE_CHECKING, Any

from plotly.io.json import to_json_plotly

if TYPE_CHECKING:
    import pandas as pd


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{escape(text)}</p>"


def bullets(texts: Sequence[str]) -> str:
    """A list of plain texts."""
    return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>"


def details(summary: str, body: str) -> str:
    """HTML that is folded away under a plain text."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def scrolling(label: str, body: str) -> str:
    """A box in which something wide scrolls, also with the keyboard."""
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">{body}</div>'
    )


def table(frame: pd.DataFrame, caption: str) -> str:
    """A frame as a table in a box of its own; numbers in four digits, NaN left empty."""
    head = "".join(f'<th scope="col">{escape(str(name))}</th>' for name in frame.columns)
    rows = "".join(
        "<tr>" + "".join(map(_cell, row)) + "</tr>\n"
        for row in frame.itertuples(index=False, name=None)
    )
    title = f"<caption>{escape(caption)}</caption>"
    body = f"<table>{title}<thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table>"
    return scrolling(caption, body)


def definitions(values: Mapping[str, Any]) -> str:
    """A definition list; what is nested is told in one line."""
    items = "".join(
        f"<div><dt>{escape(str(name))}</dt><dd>{escape(in_line(value))}</dd></div>"
        for name, value in values.items()
    )
    return f"<dl>{items}</dl>"


def grouped_definitions(values: Mapping[str, Any]) -> str:
    """A definition list, then one under a heading of its own for each mapping inside."""
    groups = {name: v for name, v in values.items() if isinstance(v, Mapping) and v}
    parts = [definitions({name: v for name, v in values.items() if name not in groups})]
    for name, inside in groups.items():
        parts.append(
            f'<h4>{escape(name)}</h4><div class="columns">{definitions(flat(inside))}</div>'
        )
    return "\n".join(parts)


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping without mappings inside: {"a": {"b": 1}} as {"a, b": 1}."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= {f"{name}, {inside}": deep for inside, deep in flat(value).items()}
        else:
            found[name] = value
    return found


def in_line(value: Any) -> str:
    """A plain JSON value as text."""
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {in_line(inside)}" for name, inside in value.items()) or "none"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(in_line, value)) or "none"
    return "none" if value is None else str(value)


def as_script(content: Any, name: str) -> str:
    """A script element that holds JSON, also of figures; no text in it can end the element."""
    safe = str(to_json_plotly(content)).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{safe}</script>'


def number(value: float) -> str:
    """A number in four digits; NaN is empty."""
    return "" if math.isnan(value) else f"{value:,.0f}" if value.is_integer() else f"{value:.4g}"


def _cell(value: Any) -> str:
    if isinstance(value, Real) and not isinstance(value, bool):
        return f'<td class="number">{number(float(value))}</td>'
    return f"<td>{escape(str(value))}</td>"
