from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import lofit_lens

ROOT = Path(__file__).parents[1]


def test_every_public_name_can_be_imported() -> None:
    for name in dir(lofit_lens):
        assert getattr(lofit_lens, name) is not None


def test_every_public_name_has_a_docstring_and_a_place_in_the_reference() -> None:
    pages = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "docs").rglob("*.md"))
    for name in dir(lofit_lens):
        value = getattr(lofit_lens, name)
        if isinstance(value, type) or inspect.isfunction(value):
            assert value.__doc__, name
        assert name in pages, name


def test_analysis_is_part_of_the_package() -> None:
    assert importlib.import_module("lofit_lens.analysis").__name__ == "lofit_lens.analysis"


def test_the_core_never_imports_analysis() -> None:
    for path in (ROOT / "lofit_lens").glob("[!a]*/**/*.py"):
        assert "lofit_lens.analysis" not in path.read_text(encoding="utf-8"), path
    for path in (ROOT / "lofit_lens").glob("*.py"):
        assert "lofit_lens.analysis" not in path.read_text(encoding="utf-8"), path


def test_importing_the_package_or_asking_for_help_loads_no_heavy_library() -> None:
    code = (
        "import sys, lofit_lens, lofit_lens.analysis.cli.main; "
        "heavy = ('torch', 'transformers', 'pandas', 'plotly', 'matplotlib'); "
        "print([m for m in heavy if m in sys.modules])"
    )
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    assert done.stdout.strip() == "[]", f"after {time.perf_counter() - started:.1f} s"


def test_committed_notebooks_hold_no_outputs() -> None:
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    assert notebooks
    for path in notebooks:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                assert (cell["outputs"], cell["execution_count"]) == ([], None), path.name


def test_no_module_of_the_package_prints_or_seeds_globally() -> None:
    banned = {"manual_seed", "set_seed"}
    for path in [*(ROOT / "lofit_lens").rglob("*.py"), *(ROOT / "analysis").rglob("*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        forked = {
            inner
            for block in ast.walk(tree)
            if isinstance(block, ast.With)
            and re.search("fork_rng|random_state_kept", ast.unparse(block.items[0]))
            for inner in ast.walk(block)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = ast.unparse(node.func.value)
                allowed = "Generator" in owner or node in forked
                assert allowed or node.func.attr not in banned, path


@pytest.mark.parametrize("name", ["lofit_lens.heads", "lofit_lens.edits.on_heads"])
def test_the_examples_in_docstrings_run(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted > 0
    assert results.failed == 0
