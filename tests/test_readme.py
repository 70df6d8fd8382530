from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.real
def test_the_first_twenty_lines_show_the_whole_loop_and_run_as_written(
    tmp_path: Path, data_dir: Path, models_dir: Path
) -> None:
    head = README.read_text(encoding="utf-8").splitlines()[:20]
    code = "\n".join(head).split("```python\n")[1].split("```")[0]
    for verb in ("load_model", "select_heads", "top", "tune_heads", "evaluate", "applied", "save"):
        assert verb in code
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    before, after = done.stdout.splitlines()[:2]
    assert "accuracy 13.4" in before
    assert "accuracy 99." in after or "accuracy 100" in after
    assert "Once upon a time" in done.stdout
    assert (tmp_path / "npi" / "intervention.safetensors").is_file()
    assert (tmp_path / "npi-stock" / "model.safetensors").is_file()
