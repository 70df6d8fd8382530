"""Every fast path against the plain one and against its rivals, as ratios in one run.

    python benchmarks/run.py [--rounds 7] [--models 30M,110M,stories3M] [--only steps,scoring]
                             [--device cpu] [--out benchmarks/results]

Models are Llamas of random weights (30M, 110M, the shapes of Llama 2 as 7B and 13B, and "tiny", to
see that everything runs) and stories3M, where `LOFIT_LENS_MODELS` names a folder that holds it. The
task files are those of `LOFIT_LENS_DATA` or are fetched; without either, texts are made up. On a GPU:
`python benchmarks/run.py --models 7B,13B --device cuda`.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from transformers.utils.logging import disable_progress_bar

from benchmarks import probing, report, scoring, steps, together
from benchmarks.floor import matmul_peak
from benchmarks.measuring import Benchmark, Result, measure
from benchmarks.models import SHAPES, STORIES, Subject, load_subject
from benchmarks.texts import Texts, find_texts

PARTS: Mapping[str, Benchmark] = {
    "scoring": scoring.scoring,
    "steps": steps.stage_two,
    "after_prompt": steps.after_prompt,
    "every_layer": steps.every_layer,
    "together": together.four_sets,
}
"""What is measured on each model, by name."""

PROBES = "probes"
"""A part that needs no model."""

DEFAULT_MODELS = (STORIES, "30M", "110M")

LEFT_OUT = {("110M", "together")}
"""What takes minutes and tells nothing that a smaller model does not."""


def run(
    models: Sequence[str],
    parts: Sequence[str],
    texts: Texts,
    *,
    rounds: int,
    device: str,
    n_heads: int = 1024,
) -> Iterator[tuple[str, Result]]:
    """Measure some parts on some models, and give each result with what it was measured on.

    Args:
        models: Names of models.
        parts: Names of parts.
        texts: What they run on.
        rounds: Rounds at most.
        device: "cpu" or "cuda".
        n_heads: Heads that probes are fitted for, a multiple of 32.
    """
    gc.collect()
    gc.freeze()  # what the libraries hold: a collection before each timed run would go through it
    try:
        yield from _results(models, parts, texts, rounds, device)
    finally:
        gc.unfreeze()
    if PROBES in parts:
        yield "drawn activations", probing.probes(n_heads)


def _results(
    models: Sequence[str], parts: Sequence[str], texts: Texts, rounds: int, device: str
) -> Iterator[tuple[str, Result]]:
    for name in models:
        with TemporaryDirectory() as folder:
            subject = load_subject(name, texts, device, Path(folder))
            if subject is None:
                continue
            peak = matmul_peak(subject.device, subject.plain.dtype)
            for part in parts:
                if part in PARTS and (name, part) not in LEFT_OUT:
                    yield name, _measured(subject, texts, part, rounds, peak)
            del subject
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()


def _measured(subject: Subject, texts: Texts, part: str, rounds: int, peak: float) -> Result:
    with PARTS[part](subject, texts) as prepared:
        noted = replace(prepared, notes=[subject.size, *prepared.notes])
        return measure(noted, rounds, subject.device, peak)


def machine(device: str, texts: Texts) -> dict[str, object]:
    """What the figures depend on."""
    gpu = device == "cuda"
    dtype = torch.bfloat16 if gpu else torch.float32
    peak = matmul_peak(torch.device(device), dtype)
    return {
        "device": torch.cuda.get_device_name() if gpu else _processor(),
        "threads": torch.get_num_threads(),
        "type": str(dtype).removeprefix("torch."),
        "matrix product at its best, TFLOP/s": round(peak / 1e12, 3),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "transformer-lens": version("transformer-lens"),
        "peft": version("peft"),
        "texts": texts.source,
    }


def _processor() -> str:
    found = Path("/proc/cpuinfo")
    if found.exists():
        for line in found.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    """Measure, print each table as soon as it is there, and store all of them."""
    parser = argparse.ArgumentParser(description="The benchmarks of lofit_lens, as ratios.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--models", default=",".join(DEFAULT_MODELS), help="with commas between")
    parser.add_argument(
        "--only", default=",".join([*PARTS, PROBES]), help="parts, with commas between"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    models, parts = options.models.split(","), options.only.split(",")
    for given, known in ((models, [*SHAPES, STORIES]), (parts, [*PARTS, PROBES])):
        if unknown := [name for name in given if name not in known]:
            parser.error(f"unknown: {', '.join(unknown)}; known are {', '.join(known)}")
    torch.set_num_threads(1)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    disable_progress_bar()
    texts = find_texts()
    about = machine(options.device, texts)
    print(report.as_heading(about))
    results: dict[str, list[Result]] = {}
    for name, result in run(models, parts, texts, rounds=options.rounds, device=options.device):
        print(report.as_markdown(result, name), flush=True)
        results.setdefault(name, []).append(result)
        report.store(options.out, about, results)  # each time: a long run may be cut short


if __name__ == "__main__":
    main()
