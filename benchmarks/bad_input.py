"""Generated bad input through every reader: each file is refused clearly, or rightly accepted.

    python benchmarks/bad_input.py [--each 500] [--seed 0] [--only evaluation,record]

Good files of every kind are made bad (see `mutations`) and read. A clear refusal is an error of ours
that names the file. What is accepted is then shown: `repr`, the table, the figure, the main number; of
a study, the whole page, where records that do not fit each other are refused by the names of their
runs. It ends with 1 if anything else is raised, if a file takes more than 10
seconds, or if memory grows by more than 1 GB, which the process is not given.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import psutil
import torch
from safetensors.numpy import save_file

from benchmarks.mutations import mutated
from lofit_lens.analysis.baselines.adapters import AdapterEdit
from lofit_lens.analysis.baselines.bitfit import OutputBias
from lofit_lens.analysis.baselines.contrast_edit import ContrastIntervention
from lofit_lens.analysis.baselines.loreft import LoReFT
from lofit_lens.analysis.causal.patching import PatchIntervention
from lofit_lens.analysis.causal.stacking import StackedEdits
from lofit_lens.analysis.inside.explorer.cards import HeadCards
from lofit_lens.analysis.inside.layers import LayerDistribution, layer_distribution
from lofit_lens.analysis.kinds.curves import CausalCurves
from lofit_lens.analysis.reading.open import open_study
from lofit_lens.analysis.reporting.page import page
from lofit_lens.analysis.study.record import Record
from lofit_lens.card import card
from lofit_lens.edits.edit import Edit
from lofit_lens.edits.files import load_edit
from lofit_lens.edits.of_vectors import read_vectors
from lofit_lens.edits.on_heads import HeadIntervention
from lofit_lens.edits.on_residual import ResidualIntervention
from lofit_lens.errors import LofitLensError, told
from lofit_lens.head_scores import HeadScores
from lofit_lens.heads import HeadSet
from lofit_lens.identity import Fingerprint
from lofit_lens.model import load_model
from lofit_lens.provenance import Provenance
from lofit_lens.scoring.evaluation import Evaluation
from lofit_lens.tasks.from_file import from_file
from lofit_lens.tasks.load import load_tasks
from lofit_lens.training.history import History
from lofit_lens.training.rates import RateChoice, RateTrial
from tests import small_study

SECONDS, MEMORY = 10, 2**30


@dataclass(frozen=True)
class Reader:
    """How a good file is made in a folder, and how one is read.

    Attributes:
        write: Writes the file, and others beside it; returns those that are to be made bad.
        read: Reads what was written, from one of them.
    """

    write: Callable[[Path], list[Path]]
    read: Callable[[Path], Any]


@dataclass
class Count:
    """What became of the files given to a reader."""

    tried: int = 0
    refused: int = 0
    accepted: int = 0
    odd: int = 0
    slowest: float = 0.0
    grown: float = 0.0


def main() -> int:
    """Try all readers and print the table; 1 if something went wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--each", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(READERS))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    names = arguments.only.split(",")
    for name in names:  # imports and caches do not count as memory of a bad file
        trial(name, 0, arguments.seed)
    used = psutil.Process().memory_info().vms + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (used, used))
    found = {}
    print(
        f"{'reader':<18} {'tried':>6} {'refused':>8} {'accepted':>9} {'other':>6} {'slowest':>8} {'MB':>5}"
    )
    for name in names:
        one, problems = trial(name, arguments.each, arguments.seed)
        found[name] = one
        print(
            f"{name:<18} {one.tried:>6} {one.refused:>8} {one.accepted:>9} {one.odd:>6} "
            f"{one.slowest:>7.2f}s {one.grown / 2**20:>5.0f}",
            flush=True,
        )
        for problem, times in problems.most_common(12):
            print(f"    {times} x {problem}")
    total = {
        key: sum(getattr(one, key) for one in found.values())
        for key in ("tried", "refused", "accepted", "odd")
    }
    print(
        f"{'all':<18} {total['tried']:>6} {total['refused']:>8} {total['accepted']:>9} {total['odd']:>6}"
    )
    return int(total["odd"] > 0)


def trial(name: str, n: int, seed: int) -> tuple[Count, Counter[str]]:
    """Give a reader its good files, then `n` bad ones."""
    reader, rng = READERS[name], random.Random(f"{name} {seed}")
    count, problems = Count(), Counter[str]()
    with TemporaryDirectory() as folder:
        good = {path: path.read_bytes() for path in reader.write(Path(folder))}
        for path in good:
            show(reader.read(path))
        before = _peak()
        for _ in range(n):
            path = rng.choice(list(good))
            path.write_bytes(mutated(good[path], rng))
            started = time.perf_counter()
            problem = outcome(reader, path, count)
            spent = time.perf_counter() - started
            if problem is None and spent > SECONDS:
                problem = f"{spent:.0f} seconds"
            count.slowest, count.tried = max(count.slowest, spent), count.tried + 1
            if problem is not None:
                count.odd += 1
                problems[problem] += 1
            path.write_bytes(good[path])
        count.grown = _peak() - before
    return count, problems


def outcome(reader: Reader, path: Path, count: Count) -> str | None:
    """Read a file; None, or what went wrong."""
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(2 * SECONDS)
    try:
        try:
            found = reader.read(path)
        except LofitLensError as error:
            names = {*path.parts[3:], *(file.name for file in path.parent.iterdir())}
            if not any(name in told(error) for name in names):
                return f"no file named: {told(error)[:90]}"
            raise
        show(found)
        count.accepted += 1
    except LofitLensError:
        count.refused += 1
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)
        ours = [f for f in last if "lofit_lens" in f.filename or "/analysis/" in f.filename][-1:]
        where = ", ".join(f"{Path(f.filename).name}:{f.lineno}" for f in ours)
        return f"{type(error).__name__} in {where}: {str(error)[:80]}"
    finally:
        signal.alarm(0)
    return None


def show(found: Any) -> None:
    """Everything that a user may ask of what was read."""
    repr(found)
    for name in ("frame", "plot", "_repr_html_", "main", "metrics"):
        part = getattr(found, name, None)
        if callable(part):
            part()
    if hasattr(found, "figure_names"):
        page(found)
    if isinstance(found, Edit | HeadSet | HeadScores):
        card(found, "user/repo")


def _too_long(*_: object) -> None:
    raise TimeoutError(f"more than {2 * SECONDS} seconds")


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


SHAPE: dict[str, Any] = {"n_layers": 3, "n_heads": 4}
MODEL = Fingerprint("Llama", 3, 4, 4, 8, 32, 100, "weights", False, "tiny", None)
CURVE = History([1.0, 0.5], [1.0, 1.0], [0.1, 0.0], [1.0, 0.5], [0, 2], None, 1)
CHOICE = RateChoice(0.1, (RateTrial(0.1, 0.5, 0.5), RateTrial(1.0, stopped="nan")), 1.0, 2.0)
ORIGIN = Provenance(MODEL, "kin", "hash", {"seed": 7, "rate_choice": CHOICE.to_json()}, CURVE)
HEADS = HeadSet([(0, 1), (2, 3)], **SHAPE)


def _one(name: str, save: Callable[[Path], object]) -> Callable[[Path], list[Path]]:
    def write(folder: Path) -> list[Path]:
        save(folder / name)
        return [folder / name]

    return write


def _edit(edit: Any) -> Reader:
    def write(folder: Path) -> list[Path]:
        made: Any = edit() if callable(edit) else edit
        return list(made.save(folder / "edit").iterdir())

    return Reader(write, lambda path: load_edit(path.parent))


@cache
def _model() -> Any:
    return load_model("embedded")


def _vectors(name: str, write: Callable[[Path, dict[str, Any]], object]) -> Reader:
    def save(path: Path) -> object:
        heads = np.ones((_model().cfg.n_heads, _model().cfg.d_head), np.float32)
        return write(path, {"blocks.1.attn.hook_z": heads, "blocks.0.attn.hook_z": 2 * heads})

    return Reader(_one(name, save), lambda path: read_vectors(path, _model()))


def _control_vector(path: Path, _arrays: dict[str, Any]) -> None:
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "controlvector")
    writer.add_array("notes", ["a", "b"])
    writer.add_tensor("direction.1", np.ones(_model().cfg.d_model, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _adapter(kind: str) -> AdapterEdit:
    """LoRA or (IA)3 on a layer of 8 numbers."""
    import peft

    q, down = "blocks.0.attn.q", "blocks.0.mlp.out"
    if kind == "lora":
        weights = {f"{q}.lora_A.weight": torch.ones(2, 8), f"{q}.lora_B.weight": torch.ones(8, 2)}
        return AdapterEdit(peft.LoraConfig(r=2, target_modules=["q"]), (q,), weights, ORIGIN)
    config = peft.IA3Config(target_modules=["q", "out"], feedforward_modules=["out"])
    weights = {f"{q}.ia3_l": torch.ones(8, 1), f"{down}.ia3_l": torch.ones(1, 8)}
    return AdapterEdit(config, (q, down), weights, ORIGIN)


def _records(folder: Path) -> list[Path]:
    comparison = small_study.comparison()
    step = {
        "step": "rate",
        "key": "0",
        "seconds": 1.0,
        "tokens": 5,
        "rate_choice": CHOICE.to_json(),
    }
    run = comparison.runs[-1]
    whole = Record(
        run.method, run.task, run.fold, 7, run.evaluation, run.cost, {"kl": 0.1}, {"k": 2}, HEADS,
        [{"prompt": "a"}], {"model": "weights", "shape": [3, 4]}, "kin", 1, {"examples": 8},
        {"seed": 7}, [step], "key",
    )  # fmt: skip
    earlier = folder / "earlier.json.gz"
    from tests.earlier_folders import write_run

    names = [write_run(folder, whole, place) for place in range(2)]
    return [whole.save(folder / "r.json.gz"), *(folder / name for name in names), earlier][:3]


def _study(save: Callable[[Path], object]) -> Reader:
    def write(folder: Path) -> list[Path]:
        save(folder / "run")
        return [path for path in sorted((folder / "run").rglob("*")) if path.is_file()]

    def read(path: Path) -> Any:
        folder = path
        while folder.name != "run":
            folder = folder.parent
        return open_study(folder)

    return Reader(write, read)


def _finished_run(folder: Path) -> None:
    small_study.run("truth").save(folder)
    small_study.cards().save(folder / "cards.json")
    (folder / "run.json").write_text(
        '{"schema": 1, "command": "lofit", "command_line": null, "loaded": {"model": "tiny"}, '
        '"versions": {"torch": "2"}}'
    )


def _table(name: str, text: str, **options: Any) -> Reader:
    return Reader(
        _one(name, lambda path: path.write_text(text)), lambda path: from_file(path, **options)
    )


def _task_file(folder: Path) -> list[Path]:
    (folder / "own.csv").write_text(CSV)
    told = 'file = "own.csv"\nprompt = "{q} is"\nanswer = "a"\nsplit = [0.4, 0.1, 0.5]\n'
    told += 'split_seed = 3\nstop = "\\n"\nseparator = ";"\nmax_new_tokens = 4\n'
    (folder / "own.toml").write_text(told)
    return [folder / "own.toml"]


def _parquet(path: Path) -> None:
    import pandas as pd

    pd.DataFrame({"q": [f"thing {i}" for i in range(12)], "a": ["blue", "red"] * 6}).to_parquet(
        path
    )


ROWS = [f'{{"q": "thing {i}", "a": "blue", "c": ["blue", "red"], "n": {i}}}' for i in range(12)]
CSV = "q,a,c\n" + "".join(f"thing {i},blue,\"['blue', 'red']\"\n" for i in range(12))
ASKED: dict[str, Any] = {"prompt": "{q} is", "answer": "a"}
CHOSEN: dict[str, Any] = {**ASKED, "choices": "c"}
TABLE = "layer,head\n0,1\n2,3\n"

READERS: dict[str, Reader] = {
    "evaluation": Reader(
        _one("e.json.gz", lambda p: small_study.run("truth").tuned.save(p)), Evaluation.load
    ),
    "record": Reader(_records, Record.load),
    "head scores": Reader(
        _one("s.json", lambda p: HeadScores(torch.rand(3, 4), provenance=ORIGIN).save(p)),
        HeadScores.load,
    ),
    "head cards": Reader(_one("c.json", lambda p: small_study.cards().save(p)), HeadCards.load),
    "causal curves": Reader(
        _one("c.json.gz", lambda p: small_study.curves().save(p)), CausalCurves.load
    ),
    "layers": Reader(
        _one("l.json", lambda p: layer_distribution({"a": [HEADS, HEADS]}).save(p)),
        LayerDistribution.load,
    ),
    "learning rate": Reader(_one("r.json", CHOICE.save), RateChoice.load),
    "heads edit": _edit(HeadIntervention(HEADS, bias=torch.ones(2, 8), provenance=ORIGIN)),
    "residual edit": _edit(ResidualIntervention(torch.ones(1, 8), (2,), 3, provenance=ORIGIN)),
    "contrast edit": _edit(ContrastIntervention("a", "b", (1,), 3, behind=(1, 2))),
    "output-bias edit": _edit(OutputBias(torch.ones(3, 8), provenance=ORIGIN)),
    "stacked edit": _edit(
        StackedEdits(
            (
                HeadIntervention(HEADS, scale=torch.ones(2, 8)),
                ResidualIntervention(torch.ones(1, 8), (2,), 3),
            )
        )
    ),
    "lora edit": _edit(partial(_adapter, "lora")),
    "ia3 edit": _edit(partial(_adapter, "ia3")),
    "loreft edit": _edit(LoReFT(torch.ones(3, 2, 8), torch.ones(3, 2, 8), torch.ones(3, 2), 3)),
    "patch edit": _edit(PatchIntervention(HEADS, HeadIntervention(HEADS, bias=torch.ones(2, 8)))),
    "head list .json": Reader(_one("h.json", HEADS.save), HeadSet.load),
    "head rows .json": Reader(
        _one("h.json", lambda p: p.write_text('[[0, 1], "L2H3", {"layer": 1, "head": 0}]')),
        lambda p: HeadSet.load(p, **SHAPE),
    ),
    "head list .npy": Reader(_one("h.npy", HEADS.save), lambda p: HeadSet.load(p, **SHAPE)),
    "head list .csv": Reader(
        _one("h.csv", lambda p: p.write_text(TABLE)), lambda p: HeadSet.load(p, **SHAPE)
    ),
    "vectors .npy": _vectors(
        "v.npy", lambda p, _: np.save(p, np.ones((_model().cfg.n_layers, _model().cfg.d_model)))
    ),
    "vectors .npz": _vectors("v.npz", lambda p, arrays: np.savez(p, **arrays)),
    "vectors .safetensors": _vectors("v.safetensors", lambda p, arrays: save_file(arrays, p)),
    "control vector": _vectors("v.gguf", _control_vector),
    "rows .csv": _table("q.csv", CSV, **CHOSEN),
    "rows .jsonl": _table("q.jsonl", "\n".join(ROWS), **CHOSEN),
    "rows .json": _table("q.json", f"[{', '.join(ROWS)}]", **CHOSEN),
    "rows .parquet": Reader(_one("q.parquet", _parquet), lambda p: from_file(p, **ASKED)),
    "task file": Reader(_task_file, lambda p: load_tasks(str(p))),
    "comparison": _study(lambda p: small_study.comparison().save(p)),
    "transfer": _study(lambda p: small_study.matrix().save(p)),
    "sweep": _study(lambda p: small_study.study().sweeps["run"].save(p)),
    "run": _study(_finished_run),
}

if __name__ == "__main__":
    np.seterr(all="ignore")
    sys.exit(main())
