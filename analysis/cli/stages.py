"""The commands `lofit`, `select` and `tune`: both stages, and each by itself."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from lofit_lens.analysis.cli.chat import ChatOptions
from lofit_lens.analysis.cli.console import Report, metrics_json
from lofit_lens.analysis.cli.groups import Heads, Out, Overwrite, option, with_options
from lofit_lens.analysis.cli.options import HeadOptions, ModelOptions, TrainingOptions
from lofit_lens.analysis.cli.running import RunningOptions
from lofit_lens.analysis.cli.task_options import TaskOptions, name_of
from lofit_lens.errors import LofitLensError, UnsupportedError


@with_options
def lofit(
    *,
    report: Report,
    model_options: ModelOptions,
    task_options: TaskOptions,
    chat: ChatOptions,
    head_options: HeadOptions,
    training: TrainingOptions,
    running: RunningOptions,
    out: Out,
    heads: Heads = "lofit",
    random_draws: Annotated[
        int, option("Sets of random heads to tune beside the selected ones.", min=0)
    ] = 0,
) -> None:
    """Select heads, tune them, and score the model before and after.

    Writes scores.json (every head's score), heads.npy, intervention.safetensors and .json, the
    records of every scored item, cards.json (what `report` shows of each head), and run.json; for
    TruthfulQA one folder a fold.
    """
    from lofit_lens.analysis.cli.hints import doubt
    from lofit_lens.analysis.inside.explorer.cards import head_cards
    from lofit_lens.analysis.inside.explorer.measure import short_prompt
    from lofit_lens.analysis.kinds.lofit import lofit as run_lofit
    from lofit_lens.analysis.methods.selectors import check_chosen
    from lofit_lens.analysis.runs import CARDS, RunFolder
    from lofit_lens.attention import heads_of
    from lofit_lens.heads import number_of_heads
    from lofit_lens.identity import source_of
    from lofit_lens.scoring import Evaluation

    folder = RunFolder.new(out, overwrite=running.overwrite, resume=running.resume)
    check_chosen(heads)
    model_options.check()
    tasks = task_options.load(training.seed)
    head_options.check()
    training.check(tasks, head_options.share())
    tasks = chat.inside(tasks, model_options)
    model = model_options.load()
    training.hint(model_options.model, report)
    total = heads_of(model).total
    head_options = head_options.under(training.preset, total, report)
    k = number_of_heads(total, k=head_options.k, fraction=head_options.fraction)
    configs = [(training.selection(t), training.tuning(t, k / total)) for t in tasks]
    report.say(f"{Path(source_of(model)[0]).name}: {k} of {total} heads; {name_of(tasks)}")
    if not running.resume:
        folder.clear()
    runs = []
    folds = folder.places(len(tasks))
    for fold, task, (selection, tuning) in zip(folds, tasks, configs, strict=True):
        report.rescue = fold / "stopped"
        run = run_lofit(
            model,
            task,
            k=k,
            heads=heads,
            selection=selection,
            tuning=tuning,
            random_draws=random_draws,
            out=fold,
            batch_size=model_options.batch_size,
            **running.how(report),
        )
        runs.append(run)
    for run in runs:
        report.add_training(f"Stage 1 on {run.tuned.task}", run.scores.provenance)
        report.add_training(f"Stage 2 on {run.tuned.task}", run.intervention.provenance)
    try:
        cards = head_cards(
            model,
            {task.name: run.intervention for task, run in zip(tasks, runs, strict=True)},
            {task.name: {training.seed: r.scores} for task, r in zip(tasks, runs, strict=True)},
            text=short_prompt(model, tasks[0]),
        )
    except UnsupportedError as error:
        report.say(f"No head cards: {error}")
    else:
        cards.save(out / CARDS)
    by_name = [run.evaluations() for run in runs]
    name = name_of(tasks)
    pooled = {
        key: Evaluation.pooled(name, [evaluations[key] for evaluations in by_name])
        for key in by_name[0]
    }
    report.add_evaluations(pooled)
    report.hint(doubt(pooled))
    chosen = [[list(head) for head in run.heads] for run in runs]
    named = "; ".join(" ".join(map(str, run.heads)) for run in runs)
    folder.finish(
        "lofit",
        model,
        task=name,
        chat=tasks[0].source.get("chat"),
        heads=chosen,
        metrics={key: metrics_json(evaluation) for key, evaluation in pooled.items()},
        **report.noted,
    )
    told = {"heads": chosen, "out": str(out), "paths": folder.files()}
    report.add(f"heads: {named}\nwritten to {out}", **told)


@with_options
def select(
    *,
    report: Report,
    model_options: ModelOptions,
    task_options: TaskOptions,
    chat: ChatOptions,
    head_options: HeadOptions,
    training: TrainingOptions,
    out: Out,
    heads: Heads = "lofit",
    overwrite: Overwrite = False,
) -> None:
    """Stage 1, or another way to score every head for a task.

    Writes scores.json and, with --k or --fraction, heads.npy in LoFiT's own format.
    """
    from lofit_lens.analysis.kinds.lofit import score_heads_by
    from lofit_lens.analysis.methods.selectors import check_chosen
    from lofit_lens.analysis.methods.settings import Settings
    from lofit_lens.analysis.runs import RunFolder
    from lofit_lens.attention import heads_of
    from lofit_lens.heads import number_of_heads

    folder = RunFolder.new(out, overwrite=overwrite)
    check_chosen(heads)
    model_options.check()
    tasks = task_options.load(training.seed)
    head_options.check(needed=False)
    training.check(tasks)
    tasks = chat.inside(tasks, model_options)
    model = model_options.load()
    training.hint(model_options.model, report)
    total = heads_of(model).total
    head_options = head_options.under(training.preset, total, report)
    wanted = {name: n for name, n in asdict(head_options).items() if n is not None}
    share = number_of_heads(total, **wanted) / total if wanted else 0.1
    configs = [
        Settings(selection=training.selection(task), tuning=training.tuning(task, share))
        for task in tasks
    ]
    folder.clear()
    chosen = []
    for fold, task, config in zip(folder.places(len(tasks)), tasks, configs, strict=True):
        scores = score_heads_by(
            heads, model, task, config, seed=training.seed, progress=not report.quiet
        )
        scores.save(fold / "scores.json")
        report.add_training(f"Stage 1 on {task.name}", scores.provenance)
        lines = f"{task.name}\n{scores.frame().head(20).to_string(index=False)}"
        if wanted:
            best = scores.top(**wanted)
            best.save(fold / "heads.npy")
            chosen.append([list(head) for head in best])
            lines += f"\nheads: {' '.join(map(str, best))}"
        report.add(lines)
    told = {"chat": tasks[0].source.get("chat"), "heads": chosen, **report.noted}
    folder.finish("select", model, task=name_of(tasks), **told)
    report.add(f"written to {out}", heads=chosen, out=str(out), paths=folder.files())


@with_options
def tune(
    *,
    report: Report,
    model_options: ModelOptions,
    task_options: TaskOptions,
    chat: ChatOptions,
    training: TrainingOptions,
    heads: Annotated[
        Path,
        option(
            "Heads to tune: a head list, here or on the hub, L1H3,L2H7, or the folder of a run."
        ),
    ],
    out: Out,
    overwrite: Overwrite = False,
) -> None:
    """Stage 2: tune given heads on a task, from a fresh start."""
    from lofit_lens.analysis.runs import RunFolder, read_heads
    from lofit_lens.attention import heads_of
    from lofit_lens.head_lists import read_head_list
    from lofit_lens.hub import is_hub_name
    from lofit_lens.stages import tune_heads

    folder = RunFolder.new(out, overwrite=overwrite)
    model_options.check()
    tasks = task_options.load(training.seed)
    training.check(tasks)
    tasks = chat.inside(tasks, model_options)
    if not heads.exists() and not is_hub_name(str(heads)):
        read_head_list(heads)  # the names of heads themselves; anything else is refused now
    sources = RunFolder(heads).folds() if heads.is_dir() else [heads]
    if len(sources) == 1:
        sources *= len(tasks)  # one head set for every fold
    elif len(sources) != len(tasks):
        raise LofitLensError(
            f"{heads} holds {len(sources)} folds, the task has {len(tasks)}. Name the fold, as "
            f"--heads {sources[0]}: its heads were selected without its own test questions."
        )
    model = model_options.load()
    training.hint(model_options.model, report)
    shape = heads_of(model).shape
    head_sets = [read_heads(source, **shape) for source in sources]
    configs = [training.tuning(t, h.fraction) for t, h in zip(tasks, head_sets, strict=True)]
    folder.clear()
    folds = folder.places(len(tasks))
    for fold, task, head_set, config in zip(folds, tasks, head_sets, configs, strict=True):
        report.rescue = fold / "stopped"
        tuned = tune_heads(model, task, head_set, config, progress=not report.quiet)
        tuned.save(fold)
        assert tuned.provenance is not None
        report.add_training(f"Stage 2 on {task.name}", tuned.provenance)
        report.add(f"{task.name}: {tuned!r}\n{tuned.provenance.history!r}")
    told = {"chat": tasks[0].source.get("chat"), **report.noted}
    folder.finish("tune", model, task=name_of(tasks), **told)
    report.add(f"written to {out}", out=str(out), paths=folder.files())
