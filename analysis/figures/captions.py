"""What a figure says of itself, as plain text."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import plotly.graph_objects as go

BREAK, TAG = re.compile(r"<br\s*/?>"), re.compile(r"</?[a-z][^>]*>")
"""In the texts of plotly; a "<" that is no tag, as of p < 0.05, is neither."""


def caption_of(figure: go.Figure) -> str:
    """Title and subtitle in one paragraph, to be pasted below a figure printed without them.

    Args:
        figure: The figure, before `for_paper` takes its title.
    """
    title: Any = figure.layout["title"]
    texts = [_plain(text) for text in (title.text, title.subtitle.text) if text]
    return " ".join(f"{text.rstrip('.')}." for text in texts if text)


def _plain(text: str) -> str:
    lines = [unescape(TAG.sub("", line)).strip() for line in BREAK.split(text)]
    return " ".join(line for line in lines if line)
