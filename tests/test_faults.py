"""Full disks, damaged and foreign files, divergence, lack of memory, interrupts, clocks that jump."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import torch
from typer.testing import CliRunner

from lofit_lens.analysis.cli.main import app
from lofit_lens.analysis.kinds.comparison import Comparison
from lofit_lens.analysis.reporting.page import report
from lofit_lens.analysis.study.claims import Claims
from lofit_lens.analysis.study.record import Record
from lofit_lens.errors import LofitLensError, TrainingStopped, told
from lofit_lens.fast.forward_passes import ForwardPasses
from lofit_lens.fast.memory import halved
from tests import small_study
from tests.helpers import count_hooks, draw_tokens
from tests.test_spine import SETTINGS, compared, results, two_tasks

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

FULL = os.strerror(errno.ENOSPC)


@contextmanager
def disk_full_after(writes: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Of the files written inside, let the next ones be cut in half, as a full disk does."""
    left, write = [writes], Path.write_bytes

    def cut(path: Path, content: bytes) -> int:
        left[0] -= 1
        if left[0] >= 0:
            return write(path, content)
        write(path, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, FULL)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", cut)
        yield


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("writes", [0, 1, 4, 7, 9])
def test_a_full_disk_ends_a_run_with_what_to_do_and_what_was_finished_stays(
    llama: TransformerBridge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    asked: dict[str, Any] = {"out": tmp_path / "out", "keep_edits": True}
    with disk_full_after(writes, monkeypatch), pytest.raises(OSError) as stopped:
        compared(llama, ["lofit"], **asked)
    assert FULL in str(stopped.value) and str(tmp_path) in str(stopped.value)
    assert "Make room, then go on with --resume" in told(stopped.value)
    left = contents(tmp_path / "out")
    assert not [path for path in left if "partial" in str(path) or "claims" in str(path)]
    again = compared(llama, ["lofit"], **asked)
    assert results(again.runs) == results(compared(llama, ["lofit"]).runs)
    assert {path: left[path] for path in left if "records" in path.parts}.items() <= (
        contents(tmp_path / "out").items()
    )


def test_a_full_disk_leaves_the_edit_the_heads_and_the_page_that_were_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, heads = small_study.run("truth"), small_study.heads("truth", 7)

    def write() -> list[Callable[[], object]]:
        return [
            lambda: run.save(tmp_path / "run"),
            lambda: report(tmp_path / "run"),
            lambda: run.intervention.save(tmp_path / "edit"),
            lambda: heads.save(tmp_path / "heads.npy"),
        ]

    for save in write():
        save()
    before = contents(tmp_path)
    for save in write():
        for writes in (0, 1):
            with disk_full_after(writes, monkeypatch):
                try:
                    save()
                except OSError as error:
                    assert FULL in str(error)
    assert contents(tmp_path) == before


def test_a_claim_that_finds_no_room_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, FULL)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        with (
            pytest.raises(LofitLensError, match=f"cannot be written to: .*{FULL}"),
            Claims(tmp_path / "out" / "claims").held(),
        ):
            pass
    assert not list(tmp_path.rglob("*.json"))
    assert Claims(tmp_path / "out" / "claims").take("work")


def test_a_damaged_record_is_named_with_what_to_do_and_its_cell_alone_is_run_again(
    llama: TransformerBridge, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    whole = compared(llama, ["lofit", "bitfit"], out=out)
    path = next((out / "records").glob("bitfit*"))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(LofitLensError, match=rf"{path.name} .*Remove it, and --resume runs"):
        compared(llama, ["lofit", "bitfit"], out=out)
    path.unlink()
    new: list[Record] = []
    again = compared(llama, ["lofit", "bitfit"], out=out, on_run=new.append)
    assert [record.method for record in new] == ["bitfit"]
    assert results(again.runs) == results(whole.runs)


def test_foreign_files_in_a_store_are_not_counted(llama: TransformerBridge, tmp_path: Path) -> None:
    out = tmp_path / "out"
    whole = compared(llama, ["lofit"], out=out)
    path = next((out / "records").glob("lofit*"))
    path.rename(path.with_name("my-copy.json.gz"))  # by a name that is not its own
    (out / "records" / "notes.txt").write_text("mine")
    (out / "records" / f".{path.name}.0123.partial").write_bytes(b"\x1f\x8b half")
    (out / "scores" / "mine.json").write_text("{}")
    new: list[Record] = []
    again = compared(llama, ["lofit"], out=out, on_run=new.append)
    assert [record.method for record in new] == ["lofit"]
    assert results(again.runs) == results(Comparison.load(out).runs) == results(whole.runs)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"host": "%s"}', '{"host": "%s", "process": -1, "identity": 2}']
)
def test_a_foreign_file_among_the_claims_is_taken_over_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    now, own = [1000.0], Claims(tmp_path)
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    host = os.uname().nodename
    (tmp_path / "work.json").write_text(content.replace("%s", host))
    own.take("work")
    now[0] += 1000
    assert own.take("work") or "work" in own._held


@pytest.mark.skipif(sys.platform != "linux", reason="the clock of another system")
def test_the_claims_of_living_processes_outlast_a_clock_that_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Claims(tmp_path).take("work")
    began = psutil.Process().create_time()
    for hours in (-1000, 1, 1000):
        monkeypatch.setattr("psutil._pslinux.boot_time", lambda h=hours: 1e9 + 3600 * h)
        monkeypatch.setattr("time.time", lambda h=hours: 2e9 + 3600 * h)
        assert psutil.Process().create_time() != began, "the clock was set"
        assert not Claims(tmp_path).take("work")


def test_one_training_that_diverges_is_told_with_its_cell_and_the_others_go_on(
    llama: TransformerBridge,
) -> None:
    tuning = replace(SETTINGS.tuning, learning_rate=3e37, epochs=20, batch_size=1)
    wild = replace(SETTINGS, tuning=tuning)
    errors: list[LofitLensError] = []
    found = compared(
        llama, ["lofit", "bitfit"], tasks=two_tasks(),
        settings={"a": wild, "b": SETTINGS}, on_failure=errors.append,
    )  # fmt: skip
    (error,) = errors
    assert isinstance(error, TrainingStopped)
    for word in (
        "stopped after ",
        "learning rate below 3e+37",
        "method lofit on a with seed 42",
    ):
        assert word in told(error)
    assert [(r.task, r.method) for r in found.runs if r.method != "zero-shot"] == [
        ("a", "bitfit"), ("b", "lofit"), ("b", "bitfit"),
    ]  # fmt: skip


def test_what_is_halved_is_said_once(capfd: pytest.CaptureFixture[str]) -> None:
    def fits(size: int) -> int:
        if size > 3 * 17:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return size

    assert [halved(fits, 16 * 17) for _ in range(2)] == [(2 * 17, 2 * 17)] * 2
    said = capfd.readouterr().err.strip().splitlines()
    assert len(said) == 3
    assert said[-1] == "Memory ran out with 68 or more at once; going on with 34."


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        MemoryError("Unable to allocate 9 GiB"),
    ],
)
def test_a_cell_that_memory_does_not_suffice_for_is_left_out_with_what_to_do(
    llama: TransformerBridge, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("lofit_lens.analysis.methods.steps.tune_together", broken)
    errors: list[LofitLensError] = []
    found = compared(llama, ["lofit", "bitfit"], on_failure=errors.append)
    assert found.methods == ("zero-shot", "bitfit")
    assert "Set a smaller batch_size" in told(errors[0])
    assert "method lofit" in told(errors[0])


def test_training_that_runs_out_of_memory_is_told_by_the_command(
    tiny_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes.")

    monkeypatch.setattr("lofit_lens.training.session.Session.run", broken)
    rows = [{"sentence_good": f"Cat {i} is.", "sentence_bad": f"Is {i} cat."} for i in range(20)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    words = ["select", "--model", tiny_folder("llama"), "--task", tmp_path / "pairs.jsonl"]
    done = CliRunner().invoke(app, [*map(str, words), "--out", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert "smaller micro_batch_size" in done.output


def all_of(model: TransformerBridge) -> list[object]:
    """What work on a model changes for a while."""
    return [count_hooks(model), *model.modules(), *model.original_model.modules()]


@pytest.mark.parametrize("at", [1, 2, 3, 5, 8, 13, 21])
def test_an_interrupt_at_any_pass_leaves_the_model_clean_and_what_was_finished(
    llama: TransformerBridge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    tokens = draw_tokens()
    clean, before, calls = llama(tokens), all_of(llama), [0]
    real = ForwardPasses.logprobs

    def interrupted(self: ForwardPasses, *given: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == at:
            signal.raise_signal(signal.SIGINT)
        return real(self, *given, **options)

    monkeypatch.setattr(ForwardPasses, "logprobs", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compared(llama, ["lofit", "iti", "lora"], out=tmp_path / "out")
    assert all_of(llama) == before
    assert torch.equal(llama(tokens), clean)
    assert not (tmp_path / "out" / "claims").exists()
    for path in (tmp_path / "out").rglob("*.json.gz"):
        Record.load(path)


def test_ctrl_c_ends_a_command_with_130_and_no_traceback(
    tiny_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("lofit_lens.training.session.Session.run", interrupted)
    rows = [{"sentence_good": f"Cat {i} is.", "sentence_bad": f"Is {i} cat."} for i in range(20)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    for command in ("select", "compare", "lofit"):
        words = [command, "--model", tiny_folder("llama"), "--task", tmp_path / "pairs.jsonl"]
        words += ["--methods", "lofit"] if command == "compare" else []
        words += [] if command == "select" else ["--k", 2]
        out = tmp_path / command
        done = CliRunner().invoke(app, [*map(str, words), "--out", str(out)])
        assert done.exit_code == 130, done.output
        assert done.output.strip().endswith("Interrupted.")
        assert "Traceback" not in done.output
        assert not list(out.rglob("*.partial")) and not list(out.rglob("claims"))
