"""Modules import in any order, and the spine imports nothing from above."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import lofit_lens
from lofit_lens import analysis

ROOT = Path(lofit_lens.__file__).parents[1]


@pytest.mark.parametrize("backwards", [False, True])
def test_every_module_imports_in_either_order(backwards: bool) -> None:
    found = pkgutil.walk_packages(analysis.__path__, "lofit_lens.analysis.")
    names = sorted((module.name for module in found), reverse=backwards)
    assert "lofit_lens.analysis.kinds.table" in names
    code = f"import importlib\nfor name in {names!r}:\n    importlib.import_module(name)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_spine_imports_nothing_from_above() -> None:
    above = ("analysis.kinds", "analysis.reading", "analysis.reporting", "analysis.figures")
    for path in (ROOT / "analysis" / "study").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not [name for name in above if name in text], path


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONWARNINGS": "ignore"}
