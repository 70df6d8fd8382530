"""A study that is killed again and again ends as one that was left alone.

    python benchmarks/faults.py [--kills 25] [--parsl]

74 cells on the model of the package: run once without interruption; killed by SIGKILL at random moments
and gone on with; shared by two worker processes; shared by two processes that were started by hand in
one folder; and with `--parsl` by two workers of Parsl, of which one is killed. Printed is for each how
long it took, how many records differ from those of the first (but for their seconds), and how many
cells, or passes of training, were run again after they were finished.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil

from lofit_lens.files import read_json_gz

SEED = 0
METHODS = ("lofit", "random-heads", "random-in-layers", "probes/bias", "lofit/mass-mean", "bitfit",
           "iti", "repe-mean")  # fmt: skip
LOG = "done.log"

PARSL = """
from parsl import Config, HighThroughputExecutor
from parsl.providers import LocalProvider

config = Config(
    executors=[HighThroughputExecutor(
        max_workers_per_node=2, cores_per_worker=1, address="127.0.0.1", provider=LocalProvider(),
    )],
    retries=2, run_dir={run_dir!r}, initialize_logging=False,
)
"""
"""Two workers of Parsl on this machine."""


def child(folder: Path, workers: int, parsl: bool) -> None:
    """Run the study, or go on with it, and log what is finished."""
    from dataclasses import replace

    import torch

    from lofit_lens.analysis import Settings, compare
    from lofit_lens.analysis.study.clusters import parsl_executor
    from lofit_lens.analysis.study.store import Store
    from lofit_lens.embedded.settings import SELECTION, TUNING
    from lofit_lens.model import load_model
    from lofit_lens.tasks.embedded import embedded

    torch.set_num_threads(1)

    def log(*words: str) -> None:
        with (folder.parent / LOG).open("a", encoding="utf-8") as file:
            file.write(" ".join(words) + "\n")

    def keep(store: Store, made: Any, inner: Any = Store.keep) -> None:
        inner(store, made)
        for step, _ in made:
            if step.folder:  # what takes no time is not kept
                log("step", step.key, step.name)

    setattr(Store, "keep", keep)  # noqa: B010 - counted, not changed
    tasks = [
        replace(
            task, train=task.train[:24], val=task.val[:8], test=task.test[:12],
            val_as_test=task.val[:8],
        )
        for task in (embedded("truth"), embedded("kinship"))
    ]  # fmt: skip
    settings = replace(
        Settings.embedded(k=6), selection=replace(SELECTION, epochs=1),
        tuning=replace(TUNING, epochs=1), random_draws=3, batch_size=32,
    )  # fmt: skip
    engine: Any = parsl_executor(folder.parent / "config.py") if parsl else workers
    log("begun")
    compare(
        load_model("embedded", device="cpu"), tasks, METHODS,
        seeds=(42, 43, 44), settings=settings, out=folder, together=4, progress=False,
        workers=engine, on_run=lambda record: log("cell", record.name),
    )  # fmt: skip
    log("finished")
    if parsl:
        engine.shutdown()


def started(folder: Path, *options: str) -> subprocess.Popen[bytes]:
    """A process that runs the study in a folder."""
    command = [sys.executable, __file__, "--child", str(folder), *options]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.Popen(command, start_new_session=True, env=os.environ | {"PATH": path})


def contents(folder: Path) -> dict[str, str]:
    """The records of a study by name, without seconds."""

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: timeless(v) for k, v in value.items() if not k.endswith("seconds")}
        return [timeless(one) for one in value] if isinstance(value, list) else value

    return {
        path.name: json.dumps(timeless(read_json_gz(path, dict, what="a record")))
        for path in sorted((folder / "records").glob("*.json.gz"))
    }


def tell(what: str, folder: Path, expected: dict[str, str], seconds: float, also: str = "") -> bool:
    """Print how a study ended; returns whether it is as it should be."""
    found = contents(folder)
    apart = sum(found.get(name) != text for name, text in expected.items())
    extra = len(found.keys() - expected.keys())
    lines = (folder.parent / LOG).read_text(encoding="utf-8").splitlines()
    again = Counter(line for line in lines if line.startswith(("cell", "step")))
    cells, steps = (
        sum(n - 1 for line, n in again.items() if line.startswith(kind))
        for kind in ("cell", "step")
    )
    left = sorted(
        path.name for path in folder.iterdir() if path.name in ("claims", "passes", "fitted")
    )
    print(
        f"{what}: {seconds:.0f} s, {len(found)} records, {apart + extra} differ; run again after they "
        f"were finished: {cells} cells, {steps} steps{also}{'; left behind: ' + str(left) if left else ''}",
        flush=True,
    )
    return not (apart or extra or cells or steps or left)


def times(log: Path, word: str) -> int:
    """How often a line of the log begins with a word."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    return sum(line.startswith(word) for line in lines)


def until(log: Path, word: str, n: int) -> None:
    """Wait until so many lines of the log begin with a word."""
    while times(log, word) < n:
        time.sleep(0.05)


def killed(folder: Path, kills: int, whole: float) -> Iterator[float]:
    """Kill the study at random moments, then let it end; yields how long each process lived."""
    rng = random.Random(SEED)
    for _ in range(kills):
        begun = time.perf_counter()
        process = started(folder)
        if rng.random() < 0.9:  # else while it starts
            until(folder.parent / LOG, "begun", 1 + times(folder.parent / LOG, "begun"))
        with suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0, 2 * whole / kills))
        with suppress(ProcessLookupError):  # it came to its end
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        yield time.perf_counter() - begun
    begun = time.perf_counter()
    assert started(folder).wait() == 0
    yield time.perf_counter() - begun


def kill_a_worker() -> None:
    """Kill one of the worker processes of Parsl."""
    found = [p for p in psutil.process_iter(["cmdline"]) if "process_worker_pool" in str(p.info)]
    workers = [child for pool in found for child in pool.children() if child.cpu_times().user > 3]
    workers[0].kill()


def main() -> None:
    """Run all, and end with 1 if anything is not as it should be."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--parsl", action="store_true")
    parser.add_argument("--child", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    if options.child is not None:
        child(options.child, options.workers, options.parsl)
        return
    right = True
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)

        def timed(name: str, *processes: tuple[str, ...]) -> tuple[Path, float]:
            (root / name).mkdir()
            (root / name / "config.py").write_text(PARSL.format(run_dir=str(root / "parsl")))
            folder, begun = root / name / "study", time.perf_counter()
            running = [started(folder, *words) for words in processes]
            if "--parsl" in processes[0]:
                until(folder.parent / LOG, "cell", 20)
                kill_a_worker()
            codes = [process.wait() for process in running]
            assert not any(codes), codes
            return folder, time.perf_counter() - begun

        folder, whole = timed("whole", ())
        expected = contents(folder)
        right &= tell("left alone", folder, expected, whole)
        (root / "killed").mkdir()
        lives = list(killed(root / "killed" / "study", options.kills, whole))
        folder = root / "killed" / "study"
        also = (
            f"; {options.kills} kills, {times(folder.parent / LOG, 'finished') - 1} after the end"
        )
        right &= tell("killed", folder, expected, sum(lives), also)
        for name, processes in {
            "two workers": [("--workers", "2")],
            "two processes by hand": [(), ()],
            **({"two workers of Parsl, one killed": [("--parsl",)]} if options.parsl else {}),
        }.items():
            folder, seconds = timed(name, *processes)
            right &= tell(name, folder, expected, seconds)
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
