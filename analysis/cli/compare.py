"""The command `compare`."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lofit_lens.analysis.cli.chat import ChatOptions
from lofit_lens.analysis.cli.console import about, command
from lofit_lens.analysis.cli.groups import with_options
from lofit_lens.analysis.cli.options import (
    HeadOptions,
    ModelOptions,
    TrainingOptions,
    as_embedded,
)
from lofit_lens.analysis.cli.running import RunningOptions
from lofit_lens.analysis.cli.task_options import TasksOptions

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from lofit_lens.analysis.cli.console import Report
    from lofit_lens.analysis.methods.settings import Settings
    from lofit_lens.tasks import Task

METHODS = "zero-shot,iti,repe-reading,repe-contrast,lofit,lora,random-heads"


@with_options(
    model_options=ModelOptions,
    task_options=TasksOptions,
    chat=ChatOptions,
    head_options=HeadOptions,
    training=TrainingOptions,
    running=RunningOptions,
)
def compare(
    *,
    model_options: ModelOptions,
    task_options: TasksOptions,
    chat: ChatOptions,
    head_options: HeadOptions,
    training: TrainingOptions,
    running: RunningOptions,
    methods: Annotated[
        str, typer.Option(help="Names, with commas; NAME@SCOPE for another token scope.")
    ] = METHODS,
    seeds: Annotated[int, typer.Option(help="How many seeds, from --seed on.", min=1)] = 1,
    base: Annotated[
        str, typer.Option(help="The method the others are compared with.")
    ] = "zero-shot",
    text: Annotated[
        Path | None,
        typer.Option(
            help="Plain text to measure side effects on: a JSON list of strings, or one text a line. "
            "(default: sampled from the model)"
        ),
    ] = None,
    answers: Annotated[
        int, typer.Option(help="Multiple-choice questions to answer in free text as well.", min=0)
    ] = 0,
    rate: Annotated[
        list[str] | None,
        typer.Option(
            help="Learning rate of a tuned rival, as lora=1e-4; give it again for others. (default: the "
            "preset's, or each rival's own)"
        ),
    ] = None,
    random_draws: Annotated[
        int,
        typer.Option(help="Sets of random heads for each seed; their runs are averaged.", min=1),
    ] = 1,
    kl_budget: Annotated[
        float | None,
        typer.Option(help="Largest KL divergence on the plain text, in nats a token, for alpha."),
    ] = None,
    published: Annotated[
        str | None,
        typer.Option(
            help="The paper's numbers beside: those of gemma-7b, llama2-7b or llama2-13b."
        ),
    ] = None,
    drop_leaked: Annotated[
        bool, typer.Option(help="Leave out training items that occur in the test split.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the records of every item, tables and figure.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
) -> None:
    """Fit and score several methods on several tasks under one protocol.

    Without --model and --task: the embedded model on its three tasks. Several tasks are given with
    commas, or each with a --task of its own. **Methods**: zero-shot, lofit, lofit-scale, iti,
    repe-reading, repe-contrast, lorra, lora, ia3, red, loreft, bitfit, jola, random-heads, or
    HEADS/DIRECTION, as lofit/mass-mean or probes/bias.
    """
    with command(as_json, quiet) as report:
        from lofit_lens.analysis.baselines.validation import check_kl_budget
        from lofit_lens.analysis.kinds.compare import check_tasks
        from lofit_lens.analysis.kinds.compare import compare as run_compare
        from lofit_lens.analysis.kinds.comparison import KIND
        from lofit_lens.analysis.measure.side_effects import encode_texts
        from lofit_lens.analysis.methods.names import named_methods
        from lofit_lens.analysis.methods.settings import PAPER_FRACTION
        from lofit_lens.analysis.published import check_model
        from lofit_lens.analysis.reporting.comparison import write_tables
        from lofit_lens.analysis.study.record import ZERO_SHOT
        from lofit_lens.analysis.study.store import rows_of
        from lofit_lens.analysis.tables.tables import as_text
        from lofit_lens.attention import heads_of
        from lofit_lens.errors import LofitLensError
        from lofit_lens.identity import EMBEDDED

        embedded = (model_options.model or EMBEDDED) == EMBEDDED
        if embedded:
            model_options, training = as_embedded(model_options, training)
        model_options.check()
        each = task_options.load_each(training.seed, embedded=embedded)
        tasks = [task for folds in each for task in folds]
        tasks = chat.inside(tasks, model_options)
        if drop_leaked:
            tasks = [_without_leaks(task, report) for task in tasks]
        check_tasks(tasks)
        if training.component is not None:
            raise LofitLensError(
                "A comparison names what is learned: lofit is lofit/bias, lofit-scale is lofit/scale. Leave "
                "--component out."
            )
        head_options.check(needed=False)
        training.check(tasks, head_options.share(PAPER_FRACTION))
        check_kl_budget(kl_budget)
        if model_options.batch_size == "auto":
            raise LofitLensError(
                "A comparison needs a number as --batch-size: its methods read activations in batches."
            )
        if published is not None:
            check_model(published)
        rates = _rates(rate or ())
        names = list(dict.fromkeys([ZERO_SHOT, *(name.strip() for name in methods.split(","))]))
        named_methods(names[1:])
        if base not in names:
            raise LofitLensError(
                f"There is no run of {base!r} to compare with; --base is one of {', '.join(names)}."
            )
        chosen_seeds = range(training.seed, training.seed + seeds)
        plain = _texts(text) if text is not None else None
        store = running.store(out, KIND)
        store.ask(methods=names, tasks=[t.name for t in tasks], seeds=list(chosen_seeds), base=base)
        model = model_options.load()
        total = heads_of(model).total
        head_options = head_options.under(training.preset, total, report, default=PAPER_FRACTION)
        comparison = run_compare(
            model,
            tasks,
            names,
            seeds=chosen_seeds,
            settings={
                task.name: dataclasses.replace(
                    _settings(task, model, head_options, training, rates),
                    kl_budget=kl_budget,
                    random_draws=random_draws,
                    batch_size=model_options.batch_size,
                )
                for task in tasks
            },
            texts=None if plain is None else encode_texts(model, plain),
            n_answers=answers,
            on_failure=report.fail,
            out=store,
            keep_edits=running.keep_edits,
            progress=not quiet,
            **running.how,
        )
        for run in comparison.runs:
            report.add_steps(run)
            what = f"{run.method} on {run.fold}, seed {run.seed}"
            report.hint(about(what, run.choices.get("warning")))
            report.hint(about(what, run.evaluation.warning()))
        if base not in comparison.methods:
            raise LofitLensError(f"{base} failed, so there is nothing to compare with.")
        text_table = as_text(comparison, base=base, published=published)
        table = rows_of(comparison.frame(base))
        report.add(text_table, base=base, table=table, failures=report.failures)
        if out is not None:
            paths = write_tables(store, comparison, base=base, published=published)
            report.add_paths(out, paths, "with the records of every item")


def _without_leaks(task: Task, report: Report) -> Task:
    from lofit_lens.analysis.measure.leaks import without_leaks

    clean, dropped = without_leaks(task)
    report.say(f"{task.name}: left out {len(dropped)} items that are also in the test split")
    return clean


def _settings(
    task: Task,
    model: TransformerBridge,
    head_options: HeadOptions,
    training: TrainingOptions,
    rates: Mapping[str, float],
) -> Settings:
    """What the training options and presets say for one task."""
    from lofit_lens.analysis.baselines.paper_rates import paper_loreft, paper_rates
    from lofit_lens.analysis.cli.options import paper_task
    from lofit_lens.analysis.methods.settings import Settings
    from lofit_lens.attention import heads_of
    from lofit_lens.identity import EMBEDDED
    from lofit_lens.positions import check_scope

    start = Settings()
    if training.preset == EMBEDDED:
        start = Settings.embedded()
    elif training.preset:
        row = training.preset, paper_task(task)
        start = Settings(rates=paper_rates(*row), loreft=paper_loreft(*row))
    settings = dataclasses.replace(start, k=head_options.k, fraction=head_options.fraction)
    share = settings.n_heads(model) / heads_of(model).total
    return dataclasses.replace(
        settings,
        scope=check_scope(training.scope or "all"),
        selection=training.selection(task),
        tuning=training.tuning(task, share),
        rates={**start.rates, **rates},
    )


def _rates(given: Sequence[str]) -> dict[str, float]:
    """Learning rates from NAME=NUMBER."""
    from lofit_lens.analysis.methods.recipes import RIVALS
    from lofit_lens.errors import LofitLensError

    known = (*RIVALS, "lorra", "jola")
    rates = {}
    for text in given:
        name, _, number = text.partition("=")
        try:
            rates[name] = float(number)
        except ValueError:
            rates[name] = math.nan
        if name not in known or not rates[name] > 0:
            raise LofitLensError(
                f"--rate takes NAME=NUMBER, as lora=1e-4, for {', '.join(known)}; got {text!r}."
            )
    return rates


def _texts(path: Path) -> list[str]:
    """Plain text from a JSON list of strings, or from the lines of a file."""
    from lofit_lens.errors import DataError

    try:
        content = path.read_text(encoding="utf-8")
        texts = json.loads(content) if path.suffix == ".json" else content.splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as text: {error}.") from error
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{path} does not hold a list of strings.")
    return texts
