"""The command `demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lofit_lens.analysis.cli.console import Report
from lofit_lens.analysis.cli.groups import Out, with_options
from lofit_lens.analysis.cli.running import RunningOptions


@with_options
def demo(
    *,
    report: Report,
    running: RunningOptions,
    out: Out = Path("lofit-demo"),
    quick: Annotated[
        bool, typer.Option("--quick", help="Under a minute: one seed, 10% of heads, 80 test items.")
    ] = False,
) -> None:
    """The paper's questions on the model that comes with the package; no network is needed.

    On three tasks: zero-shot, LoFiT at 3% and 10% of heads, random heads, the scale as the final
    edit; heads of one task tuned on another (Figure 2), heads by layer (Figure 3). Writes
    report.html, table.csv and .md, figure2-*.html, figure3.html, demo.json, and the records of
    every run.
    """
    import time

    import torch

    from lofit_lens.analysis.kinds.demo import KIND, QUICK, WHOLE, run_demo
    from lofit_lens.analysis.reporting.demo import as_json as demo_json
    from lofit_lens.analysis.reporting.demo import as_text, settings_of, write_report
    from lofit_lens.analysis.reporting.page import report as report_page
    from lofit_lens.analysis.study.engines import usable_workers
    from lofit_lens.identity import EMBEDDED
    from lofit_lens.model import load_model

    started = time.perf_counter()
    size = QUICK if quick else WHOLE
    store = running.store(out, KIND)
    store.ask(**settings_of(size))
    torch.set_num_threads(1)  # matrices this small are slower with more threads or on a GPU
    model = load_model(EMBEDDED, device="cpu", dtype="float32")
    workers = 1 if quick else usable_workers()  # a quick one is over before they pay off
    found = run_demo(model, size, store, **running.how(report, workers))
    seconds = time.perf_counter() - started
    paths = [*write_report(found, store, seconds), report_page(out)]
    report.add(as_text(found), **demo_json(found))
    report.add(f"{seconds:.0f} seconds", seconds=round(seconds, 1))
    report.add_paths(out, paths, "with the records of every run")
