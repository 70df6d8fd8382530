"""The command line. Heavy imports wait until a command runs, so that --help is quick."""

from __future__ import annotations

import os
import sys

import typer

from lofit_lens.analysis.cli.causal import causal
from lofit_lens.analysis.cli.check import check
from lofit_lens.analysis.cli.claims import claims
from lofit_lens.analysis.cli.compare import compare
from lofit_lens.analysis.cli.demo import demo
from lofit_lens.analysis.cli.evaluate import evaluate
from lofit_lens.analysis.cli.figures import figures, report
from lofit_lens.analysis.cli.heads import export, heads
from lofit_lens.analysis.cli.judge import judge
from lofit_lens.analysis.cli.lm_eval import lm_eval
from lofit_lens.analysis.cli.pack import pack
from lofit_lens.analysis.cli.stages import lofit, select, tune
from lofit_lens.analysis.cli.study import plan, reproduce, run, status
from lofit_lens.analysis.cli.sweep import sweep
from lofit_lens.analysis.cli.task_options import joined_shares
from lofit_lens.analysis.cli.transfer import transfer
from lofit_lens.analysis.cli.versions import versions

app = typer.Typer(
    name="lofit-lens",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""
    Find the attention heads a task lives in, tune only those, score the result, keep it.

    LoFiT (localized fine-tuning, NeurIPS 2024) has two stages: `select` trains a scale on every
    head and ranks heads by its norm; `tune` trains a bias on the few heads chosen. `lofit` does
    both and scores the model before and after.

    **Example**

        lofit-lens lofit --model FOLDER --task pairs.jsonl --fraction 0.1 --out runs/pairs

    Results go to standard output (one JSON document with --json), progress and messages to
    standard error. Exit codes: 0 done, 1 a request that cannot be met, 2 wrong usage, 130
    interrupted.
    """,
)

for _command in (
    demo, lofit, select, tune, evaluate, compare, transfer, sweep, causal, plan, run, status,
    reproduce, figures, report, claims, judge, pack, heads, export, lm_eval, check, versions,
):  # fmt: skip
    app.command()(_command)


def main() -> None:
    """Entry point."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    app(joined_shares(sys.argv[1:]))
