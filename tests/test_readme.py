from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_first_twenty_lines_show_the_whole_loop_and_run_as_written(tmp_path: Path) -> None:
    head = README.read_text(encoding="utf-8").splitlines()[:20]
    code = "\n".join(head).split("```python\n")[1].split("```")[0]
    for verb in ("load_model", "select_heads", "top", "tune_heads", "evaluate", "applied", "save"):
        assert verb in code
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    before, after = (float(found) for found in re.findall(r"EM ([0-9.]+) ", done.stdout))
    assert after > before + 40
    assert "Q: What is" in done.stdout
    assert (tmp_path / "kin" / "intervention.safetensors").is_file()
    assert (tmp_path / "kin-stock" / "model.safetensors").is_file()
