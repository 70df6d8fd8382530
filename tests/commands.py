"""The command line for tests: each command a process of its own, forked from one that has imported all.

Importing PyTorch, Transformers and TransformerLens takes longer than most commands do. Run as a module
this is that process; it reads requests and writes answers, a JSON document a line.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import traceback
from functools import cache
from pathlib import Path
from typing import Any


def lofit_lens(
    *arguments: object, cwd: Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command; one with an environment of its own is started anew."""
    given = [*map(str, arguments)]
    if environment is not None:
        program = Path(sys.executable).with_name("lofit-lens")
        return subprocess.run(
            [str(program), *given], cwd=cwd, env=os.environ | environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    request = {"arguments": given, "cwd": str(cwd), "environment": dict(os.environ)}
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    return subprocess.CompletedProcess(given, **json.loads(server.stdout.readline()))


def succeed(*arguments: object, cwd: Path) -> dict[str, Any]:
    """What a command prints with `--json`."""
    done = lofit_lens(*arguments, "--json", cwd=cwd)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def fail(*arguments: object, cwd: Path) -> str:
    """What a command says that cannot be done, in one line."""
    done = lofit_lens(*arguments, cwd=cwd)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return " ".join(done.stderr.split())


@cache
def _server() -> subprocess.Popen[str]:
    """It ends with the process of the tests, which then closes its input."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.commands"], cwd=Path(__file__).parents[1], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip


def serve() -> None:
    """Fork a process for each request."""
    import lofit_lens.analysis.cli.main
    import lofit_lens.analysis.kinds.compare
    import lofit_lens.model  # noqa: F401

    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    for line in sys.stdin:
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            child = os.fork()
            if not child:
                _become(json.loads(line), out.fileno(), err.fileno())
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            found = []
            for file in (out, err):
                file.seek(0)
                found.append(file.read().decode("utf-8"))
        answer = {"returncode": code, "stdout": found[0], "stderr": found[1]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _become(request: dict[str, Any], out: int, err: int) -> None:
    """Run the command as the installed program does, and end."""
    from lofit_lens.analysis.cli.main import main

    code: Any = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv = ["lofit-lens", *request["arguments"]]
        main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    serve()
