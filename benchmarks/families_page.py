"""The page of the documentation that says how each family fares."""

from __future__ import annotations


def write_page(rows): ...
