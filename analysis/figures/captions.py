"""What a figure says of itself, as plain text."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import plotly.graph_objects as go

BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
TAG = re.compile(r"</?(?:br|b|i|em|sup|sub|span|a)\b[^>]*>", re.IGNORECASE)
"""In the texts of plotly; a "<" that is no tag, as of p < 0.05, is neither."""


def caption_of(figure: go.Figure) -> str:
    """Title and subtitle in one paragraph, to be pasted below what `for_paper` prints without them."""
    title: Any = figure.layout["title"]
    texts = [plain_text(text) for text in (title.text, title.subtitle.text) if text]
    return " ".join(f"{text.rstrip('.')}." for text in texts if text)


def plain_text(text: str | None) -> str:
    """A text of plotly without its marks."""
    return " ".join(unescape(TAG.sub(" ", text or "")).split())
