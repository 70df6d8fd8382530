"""Skips the notebooks, with a message, where their models or data are absent."""

from __future__ import annotations

import os

import pytest

NEEDED = ("LOFIT_LENS_MODELS", "LOFIT_LENS_DATA")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every notebook as skipped if a folder it needs is not named."""
    unset = [variable for variable in NEEDED if not os.environ.get(variable)]
    if unset:
        skip = pytest.mark.skip(reason=f"set {' and '.join(unset)} to run the notebooks")
        for item in items:
            item.add_marker(skip)
