"""Several processes on one folder, lost workers, and passes that are the same however a run was cut."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from lofit_lens.analysis.cli.main import app
from lofit_lens.analysis.kinds.comparison import KIND
from lofit_lens.analysis.study import claims
from lofit_lens.analysis.study.claims import Claims
from lofit_lens.analysis.study.clusters import parsl_executor
from lofit_lens.analysis.study.engines import Renewed, take_own_gpu
from lofit_lens.analysis.study.record import Record
from lofit_lens.analysis.study.store import Store
from lofit_lens.errors import LofitLensError
from lofit_lens.stages import tune_together
from tests.in_workers import dies_once
from tests.test_spine import compared, results

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

METHODS = ("lofit", "random-heads", "bitfit")


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many head sets were tuned in each pass."""
    found: list[int] = []

    def counted(model: Any, task: Any, runs: Any, **options: Any) -> Any:
        found.append(len(runs))
        return tune_together(model, task, runs, **options)

    monkeypatch.setattr("lofit_lens.analysis.methods.steps.tune_together", counted)
    return found


@pytest.mark.parametrize("cut", [2, 4])
def test_a_run_cut_short_ends_with_the_very_numbers_of_one_left_alone(
    llama: TransformerBridge, tmp_path: Path, passes: list[int], cut: int
) -> None:
    how: dict[str, Any] = {"seeds": (42, 43, 44), "together": 2}
    whole = compared(llama, METHODS, out=tmp_path / "whole", **how)
    alone, left = [*passes], [cut]

    def stop(_: Record) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    passes.clear()
    with pytest.raises(KeyboardInterrupt):
        compared(llama, METHODS, out=tmp_path / "cut", on_run=stop, **how)
    again = compared(llama, METHODS, out=tmp_path / "cut", **how)
    assert results(again.runs) == results(whole.runs)
    assert passes == alone
    assert {path.name for path in (tmp_path / "cut").iterdir()} == {
        "comparison.json", "records", "scores",
    }  # fmt: skip


def test_a_pass_is_kept_whole_or_not_at_all(
    llama: TransformerBridge,
    tmp_path: Path,
    passes: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    how: dict[str, Any] = {"seeds": (42, 43), "out": tmp_path / "out"}

    def broken(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Store, "_unpack", broken)  # killed when the pass is written, and not in place
        compared(llama, ["lofit"], **how)
    (left,) = (tmp_path / "out" / "passes").iterdir()
    assert sorted(path.suffix for path in (left / "scores").iterdir()) == [
        ".cost", ".cost", ".json", ".json",
    ]  # fmt: skip
    compared(llama, ["lofit"], **how)
    assert passes == [2]
    assert not (tmp_path / "out" / "passes").exists()


def test_processes_that_share_a_folder_do_no_work_twice(
    llama: TransformerBridge, tmp_path: Path, scored: list[Any], passes: list[int]
) -> None:
    whole = compared(llama, METHODS, seeds=(42, 43))
    alone, trained = len(scored), [*passes]
    scored.clear()
    passes.clear()
    others: list[Any] = []

    def second(_: Record) -> None:
        if not others:
            others.append(None)
            others[0] = compared(llama, METHODS, seeds=(42, 43), out=tmp_path / "out")

    first = compared(llama, METHODS, seeds=(42, 43), out=tmp_path / "out", on_run=second)
    assert len(scored) == alone
    assert passes == trained
    assert results(first.runs) == results(others[0].runs) == results(whole.runs)
    assert not (tmp_path / "out" / "claims").exists()


def test_a_folder_that_is_being_filled_is_not_overwritten(
    llama: TransformerBridge, tmp_path: Path
) -> None:
    said: list[str] = []

    def overwrite(_: Record) -> None:
        with pytest.raises(LofitLensError) as error:
            Store(tmp_path / "out", KIND, overwrite=True)
        said.append(str(error.value))

    compared(llama, ["bitfit"], out=tmp_path / "out", on_run=overwrite)
    assert all(f"process {os.getpid()} on {socket.gethostname()}" in text for text in said)
    Store(tmp_path / "out", KIND, overwrite=True)


def test_who_comes_second_into_an_empty_folder_is_told(tmp_path: Path) -> None:
    first, second = Store(tmp_path / "out", KIND), Store(tmp_path / "out", KIND)
    first.tell(first=True)
    with pytest.raises(LofitLensError, match=r"begun a comparison .* meanwhile"):
        second.tell(second=True)


def test_a_folder_that_cannot_be_written_to_is_told_before_any_work(
    llama: TransformerBridge, tmp_path: Path, scored: list[Any]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LofitLensError, match=r"file/out cannot be written to: .*Not a directory"):
        compared(llama, ["bitfit"], out=tmp_path / "file" / "out")
    assert not scored


def test_a_claim_is_anothers_until_it_is_given_back(tmp_path: Path) -> None:
    one, other = Claims(tmp_path / "claims"), Claims(tmp_path / "claims")
    assert one.take("work")
    assert not other.take("work")
    one.drop("work")
    assert other.take("work")


def left_by(process: int, host: str = socket.gethostname()) -> str:
    return json.dumps({"host": host, "process": process, "identity": 0})


@pytest.mark.parametrize("again", [False, True])
def test_the_claim_of_a_process_that_is_gone_is_taken_over(tmp_path: Path, again: bool) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    process = os.getpid() if again else gone.pid  # or its number is another's by now
    (tmp_path / "work.json").write_text(left_by(process))
    assert Claims(tmp_path).take("work")


def test_a_process_elsewhere_counts_as_gone_when_it_is_silent_by_our_own_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    file, own = tmp_path / "work.json", Claims(tmp_path)
    file.write_text(left_by(1, host="elsewhere"))
    os.utime(file, (1, 1))  # its clock is years behind
    assert not own.take("work")
    now[0] += claims.SILENT - 1
    assert not own.take("work")
    os.utime(file, (2, 2))
    now[0] += 2
    assert not own.take("work"), "it has been touched"
    now[0] += claims.SILENT + 1
    assert own.take("work")


def test_a_claim_is_touched_while_it_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "BEAT", 0.01)
    own = Claims(tmp_path / "claims")
    with own.held():
        own.take("work")
        file = tmp_path / "claims" / "work.json"
        os.utime(file, (1, 1))
        for _ in range(500):
            if file.stat().st_mtime > 1:
                break
            subprocess.run([sys.executable, "-c", ""], check=True)
        assert file.stat().st_mtime > 1
    assert not (tmp_path / "claims").exists()


@pytest.fixture
def renewed() -> Iterator[Executor]:
    pool = Renewed(lambda: ProcessPoolExecutor(1, mp_context=get_context("spawn")))
    yield pool
    pool.shutdown()


def test_a_lost_worker_is_replaced_and_its_work_done_again(
    renewed: Executor, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    futures = [renewed.submit(dies_once, str(tmp_path / "died")) for _ in range(3)]
    assert {future.result(60) for future in futures} != {os.getpid()}
    assert capfd.readouterr().err.count("A worker process was lost") == 1


@pytest.mark.parametrize(("given", "seen"), [(None, ["0", "1", "0"]), ("4,6", ["4", "6", "4"])])
def test_each_worker_has_a_gpu_of_its_own(
    given: str | None, seen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    turn, found = get_context("spawn").Value("i", 0), []
    for _ in seen:
        with monkeypatch.context() as worker:  # begins with the environment of its parent
            worker.setenv("CUDA_VISIBLE_DEVICES", given or "")
            take_own_gpu(turn, 2)
            found.append(os.environ["CUDA_VISIBLE_DEVICES"])
    assert found == seen


PARSL = """
from parsl import Config
from parsl.executors import ThreadPoolExecutor

config = Config(executors=[ThreadPoolExecutor(max_threads=1)], run_dir={!r}, initialize_logging=False)
"""


def test_parsl_does_the_work_of_a_configuration_file(tmp_path: Path) -> None:
    pytest.importorskip("parsl")
    (tmp_path / "config.py").write_text(PARSL.format(str(tmp_path)))
    with parsl_executor(tmp_path / "config.py") as executor:
        assert executor.submit(sorted, [2, 1]).result() == [1, 2]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "There is no file"),
        ("", "must define `config`"),
        ("config = 3", "got int"),
        (PARSL.format("my runs"), "blank in it"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_told(
    content: str | None, said: str, tmp_path: Path, llama: TransformerBridge
) -> None:
    del llama
    pytest.importorskip("parsl")
    if content is not None:
        (tmp_path / "config.py").write_text(content)
    with pytest.raises(LofitLensError, match=said):
        parsl_executor(tmp_path / "config.py")


def test_workers_and_parsl_exclude_each_other() -> None:
    done = CliRunner().invoke(app, ["demo", "--quick", "--workers", "2", "--parsl", "a.py"])
    assert done.exit_code == 1
    assert "Give either --workers or --parsl" in done.output


@pytest.mark.parametrize("damaged", ["*.json", "*.cost", "*/*.safetensors"])
def test_what_waits_to_be_scored_and_is_damaged_is_fitted_again(
    damaged: str, llama: TransformerBridge, tmp_path: Path, passes: list[int]
) -> None:
    def stop(record: Record) -> None:
        if record.method == "lofit":
            raise KeyboardInterrupt

    how: dict[str, Any] = {"seeds": (42, 43), "out": tmp_path / "out"}
    with pytest.raises(KeyboardInterrupt):
        compared(llama, ["lofit"], on_run=stop, **how)
    for file in (tmp_path / "out" / "fitted").glob(damaged):
        file.write_bytes(b'{"seconds": "long"')
    again = compared(llama, ["lofit"], **how)
    assert len(again.runs) == 3
    assert passes == ([2] if damaged == "*.cost" else [2, 1])
