"""The command line. Heavy imports wait until a command runs, so that --help is quick."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from lofit_lens.analysis.cli.chat import ChatOptions, reload_as_was
from lofit_lens.analysis.cli.check import check
from lofit_lens.analysis.cli.compare import compare
from lofit_lens.analysis.cli.console import check_file, command, metrics_json
from lofit_lens.analysis.cli.figures import figures
from lofit_lens.analysis.cli.options import (
    HeadOptions,
    ModelOptions,
    TrainingOptions,
    with_options,
)
from lofit_lens.analysis.cli.report import report as report_command
from lofit_lens.analysis.cli.running import RunningOptions
from lofit_lens.analysis.cli.task_options import TaskOptions, joined_shares, name_of
from lofit_lens.analysis.cli.transfer import transfer

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

Out = Annotated[Path, typer.Option(help="Folder to write to.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
Overwrite = Annotated[bool, typer.Option(help="Replace a finished run in --out.")]
Run = Annotated[
    Path, typer.Option(help="Folder with an intervention: the --out of `lofit` or `tune`.")
]


@app.command()
@with_options(running=RunningOptions)
def demo(
    *,
    running: RunningOptions,
    out: Out = Path("lofit-demo"),
    quick: Annotated[
        bool, typer.Option("--quick", help="Under a minute: one seed, 10% of heads, 80 test items.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """The paper's questions on the model that comes with the package; no network is needed.

    On three tasks: zero-shot, LoFiT at 3% and 10% of heads, random heads, the scale as the final
    edit; heads of one task tuned on another (Figure 2), heads by layer (Figure 3). Writes
    report.html, table.csv and .md, figure2-*.html, figure3.html, demo.json, and the records of
    every run.
    """
    with command(as_json, quiet) as report:
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
        # a quick demo is over before workers pay off
        workers = running.workers if quick or running.workers > 1 else usable_workers()
        found = run_demo(model, size, store, workers=workers, progress=not quiet)
        seconds = time.perf_counter() - started
        paths = [*write_report(found, size, store, seconds), report_page(out)]
        report.add(as_text(found), **demo_json(found))
        report.add(f"{seconds:.0f} seconds", seconds=round(seconds, 1))
        report.add_paths(out, paths, "with the records of every run")


@app.command()
@with_options(
    model_options=ModelOptions,
    task_options=TaskOptions,
    chat=ChatOptions,
    head_options=HeadOptions,
    training=TrainingOptions,
)
def lofit(
    *,
    model_options: ModelOptions,
    task_options: TaskOptions,
    chat: ChatOptions,
    head_options: HeadOptions,
    training: TrainingOptions,
    out: Out,
    random_draws: Annotated[
        int, typer.Option(help="Sets of random heads to tune beside the selected ones.", min=0)
    ] = 0,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Select heads, tune them, and score the model before and after.

    Writes scores.json (every head's score), heads.npy, intervention.safetensors and .json, the
    records of every scored item, cards.json (what `report` shows of each head), and run.json; for
    TruthfulQA one folder a fold.
    """
    with command(as_json, quiet) as report:
        from lofit_lens.analysis.cli.hints import doubt
        from lofit_lens.analysis.inside.explorer.cards import head_cards
        from lofit_lens.analysis.inside.explorer.measure import short_prompt
        from lofit_lens.analysis.kinds.lofit import lofit as run_lofit
        from lofit_lens.analysis.runs import CARDS, RunFolder
        from lofit_lens.attention import heads_of
        from lofit_lens.errors import UnsupportedError
        from lofit_lens.heads import number_of_heads
        from lofit_lens.identity import source_of
        from lofit_lens.scoring import Evaluation

        folder = RunFolder.new(out, overwrite=overwrite)
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
        folder.clear()
        runs = []
        for i, (task, (selection, tuning)) in enumerate(zip(tasks, configs, strict=True)):
            fold = folder.fold(i, len(tasks))
            report.rescue = fold / "stopped"
            runs.append(
                run_lofit(
                    model,
                    task,
                    k=k,
                    selection=selection,
                    tuning=tuning,
                    random_draws=random_draws,
                    out=fold,
                    batch_size=model_options.batch_size,
                    progress=not quiet,
                )
            )
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
        report.add(f"heads: {named}\nwritten to {out}", heads=chosen, out=str(out))
        report.add(paths=folder.files())


@app.command()
@with_options(
    model_options=ModelOptions,
    task_options=TaskOptions,
    chat=ChatOptions,
    head_options=HeadOptions,
    training=TrainingOptions,
)
def select(
    *,
    model_options: ModelOptions,
    task_options: TaskOptions,
    chat: ChatOptions,
    head_options: HeadOptions,
    training: TrainingOptions,
    out: Out,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Stage 1: score every head for a task.

    Writes scores.json and, with --k or --fraction, heads.npy in LoFiT's own format.
    """
    with command(as_json, quiet) as report:
        from lofit_lens.analysis.runs import RunFolder
        from lofit_lens.attention import heads_of
        from lofit_lens.heads import number_of_heads
        from lofit_lens.selection import select_heads

        folder = RunFolder.new(out, overwrite=overwrite)
        model_options.check()
        tasks = task_options.load(training.seed)
        head_options.check(needed=False)
        training.check(tasks)
        tasks = chat.inside(tasks, model_options)
        model = model_options.load()
        training.hint(model_options.model, report)
        total = heads_of(model).total
        head_options = head_options.under(training.preset, total, report)
        wanted = {"k": head_options.k, "fraction": head_options.fraction}
        if any(value is not None for value in wanted.values()):
            number_of_heads(total, **wanted)
        configs = [training.selection(task) for task in tasks]
        folder.clear()
        chosen = []
        for i, (task, config) in enumerate(zip(tasks, configs, strict=True)):
            fold = folder.fold(i, len(tasks))
            scores = select_heads(model, task, config, progress=not quiet)
            scores.save(fold / "scores.json")
            report.add_training(f"Stage 1 on {task.name}", scores.provenance)
            lines = f"{task.name}\n{scores.frame().head(20).to_string(index=False)}"
            if any(value is not None for value in wanted.values()):
                heads = scores.top(**wanted)
                heads.save(fold / "heads.npy")
                chosen.append([list(head) for head in heads])
                lines += f"\nheads: {' '.join(map(str, heads))}"
            report.add(lines)
        told = {"chat": tasks[0].source.get("chat"), "heads": chosen, **report.noted}
        folder.finish("select", model, task=name_of(tasks), **told)
        report.add(f"written to {out}", heads=chosen, out=str(out), paths=folder.files())


@app.command()
@with_options(
    model_options=ModelOptions,
    task_options=TaskOptions,
    chat=ChatOptions,
    training=TrainingOptions,
)
def tune(
    *,
    model_options: ModelOptions,
    task_options: TaskOptions,
    chat: ChatOptions,
    training: TrainingOptions,
    heads: Annotated[
        Path, typer.Option(help="Heads to tune: a head list, L1H3,L2H7, or the folder of a run.")
    ],
    out: Out,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Stage 2: tune given heads on a task, from a fresh start."""
    with command(as_json, quiet) as report:
        from lofit_lens.analysis.runs import RunFolder, read_heads
        from lofit_lens.attention import heads_of
        from lofit_lens.errors import LofitLensError
        from lofit_lens.head_lists import read_head_list
        from lofit_lens.tuning import tune_heads

        folder = RunFolder.new(out, overwrite=overwrite)
        model_options.check()
        tasks = task_options.load(training.seed)
        training.check(tasks)
        tasks = chat.inside(tasks, model_options)
        if not heads.exists():
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
        for i, (task, head_set, config) in enumerate(zip(tasks, head_sets, configs, strict=True)):
            fold = folder.fold(i, len(tasks))
            report.rescue = fold / "stopped"
            tuned = tune_heads(model, task, head_set, config, progress=not quiet)
            tuned.save(fold)
            assert tuned.provenance is not None
            report.add_training(f"Stage 2 on {task.name}", tuned.provenance)
            report.add(f"{task.name}: {tuned!r}\n{tuned.provenance.history!r}")
        told = {"chat": tasks[0].source.get("chat"), **report.noted}
        folder.finish("tune", model, task=name_of(tasks), **told)
        report.add(f"written to {out}", out=str(out), paths=folder.files())


@app.command()
@with_options(model_options=ModelOptions, task_options=TaskOptions, chat=ChatOptions)
def evaluate(
    *,
    model_options: ModelOptions,
    task_options: TaskOptions,
    chat: ChatOptions,
    intervention: Annotated[
        Path | None,
        typer.Option(help="Folder of a run; without it the model is scored as it is."),
    ] = None,
    split: Annotated[str, typer.Option(help="test or val.")] = "test",
    compat: Annotated[
        str | None, typer.Option(help="Scoring rule by name: paper-code keeps its quirks.")
    ] = None,
    strength: Annotated[float, typer.Option(help="Multiply the edit by this number.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the training draw, for tasks that draw.")] = 42,
    out: Annotated[
        Path | None, typer.Option(help="File for the records of every item (.json.gz).")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the file --out.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score a model on a task, with or without an intervention.

    Model, task and chat template are those of the run, unless others are named.
    """
    with command(as_json, quiet) as report:
        from lofit_lens.analysis.runs import RunFolder
        from lofit_lens.edits.on_heads import HeadIntervention
        from lofit_lens.errors import LofitLensError
        from lofit_lens.scoring import Evaluation
        from lofit_lens.scoring import evaluate as score
        from lofit_lens.tasks import reload_task
        from lofit_lens.tasks.load import check_not_trained_on

        if split not in ("test", "val"):
            raise LofitLensError(f"--split is test or val, got {split!r}.")
        check_file(out, overwrite=overwrite)
        model_options.check()
        run = RunFolder(intervention) if intervention else None
        folds = run.folds() if run else []
        edits = [strength * HeadIntervention.load(fold) for fold in folds]
        sources = [e.provenance.task_source if e.provenance else {} for e in edits]
        loaded = run.loaded() if run else None
        if edits and not (task_options.task or task_options.files):
            for name in task_options.file_arguments():
                raise LofitLensError(
                    f"{name} describes a file, and none is named: the run knows its own. Name the file "
                    "with --task, or leave the option out."
                )
            read = {"data_dir": task_options.data_dir}
            tasks = [reload_as_was(s, model_options, loaded, **read) for s in sources]
            for task, edit in zip(tasks, edits, strict=True):
                if edit.provenance and edit.provenance.data_hash != task.data_hash():
                    raise LofitLensError(
                        f"The data of {task.name} changed since {intervention} was made, so test items "
                        "may have been trained on. Name the data to score with --task."
                    )
            if chat.chat is not None or chat.system is not None:
                plain = [{k: v for k, v in source.items() if k != "chat"} for source in sources]
                tasks = [reload_task(source, **read) for source in plain]
                tasks = chat.inside(tasks, model_options, loaded)
        else:
            named = task_options.load(seed)
            tasks = chat.of_run(sources).inside(named, model_options, loaded)
        if edits and len(edits) != len(tasks):
            raise LofitLensError(
                f"{intervention} holds {len(edits)} fold(s), the task has {len(tasks)}. Name the fold, "
                "as --intervention RUN/fold-0 --task truthfulqa:0."
            )
        for task in tasks:
            task.scoring_rule(compat)
        for task, edit in zip(tasks, edits, strict=bool(edits)):
            check_not_trained_on(task, edit.provenance.task_source if edit.provenance else {})
        model = model_options.load(loaded)
        for edit in edits:
            edit.check_model(model)
        results = [
            score(
                model,
                task,
                edit,
                split=split,
                compat=compat,
                batch_size=model_options.batch_size,
                progress=not quiet,
            )
            for task, edit in zip(tasks, edits or [None] * len(tasks), strict=True)
        ]
        pooled = Evaluation.pooled(name_of(tasks), results)
        report.add_evaluations({"tuned" if edits else "zero_shot": pooled})
        if edits:
            report.add(scope=edits[0].scope, strength=strength)
        if out is not None:
            report.add(f"written to {pooled.save(out)}", paths=[str(out)])


@app.command()
@with_options(model_options=ModelOptions)
def export(
    *,
    model_options: ModelOptions,
    intervention: Run,
    out: Annotated[Path, typer.Option(help="New folder for the checkpoint.")],
    as_json: Json = False,
) -> None:
    """Write a stock Hugging Face checkpoint with the edit folded into the weights.

    It is reloaded with plain `transformers` and its logits compared before it counts as written.
    """
    with command(as_json) as report:
        from lofit_lens.analysis.runs import RunFolder
        from lofit_lens.edits.on_heads import HeadIntervention
        from lofit_lens.errors import LofitLensError
        from lofit_lens.export import check_new_folder, export_checkpoint
        from lofit_lens.folding import check_foldable

        run = RunFolder(intervention)
        folds = run.folds()
        if len(folds) > 1:
            raise LofitLensError(
                f"{intervention} holds {len(folds)} folds; export one, as --intervention {folds[0]}."
            )
        edit = HeadIntervention.load(folds[0])
        check_foldable(edit)
        check_new_folder(out)
        model = model_options.load(run.loaded())
        done = export_checkpoint(model, edit, out)
        report.add(
            f"{done.architecture} written to {done.folder}; largest logit difference to the hooked "
            f"model {done.max_logit_difference:.2g} (largest logit {done.largest_logit:.3g})",
            out=str(done.folder),
            architecture=done.architecture,
            max_logit_difference=done.max_logit_difference,
            largest_logit=done.largest_logit,
        )


@app.command()
@with_options(head_options=HeadOptions)
def heads(
    *,
    head_options: HeadOptions,
    source: Annotated[
        Path, typer.Argument(help="Folder of a run, scores.json, a head list, or L1H3,L2H7.")
    ],
    other: Annotated[
        Path | None, typer.Argument(help="A second one, to compare with the first.")
    ] = None,
    n_layers: Annotated[
        int | None, typer.Option(help="Layers of the model; for a head list that does not say.")
    ] = None,
    n_heads: Annotated[int | None, typer.Option(help="Heads per layer; likewise.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the heads as .npy (LoFiT's format) or .json.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the file --out.")] = False,
    as_json: Json = False,
) -> None:
    """Show, compare or convert sets of heads."""
    with command(as_json) as report:
        from lofit_lens.analysis.runs import read_heads

        check_file(out, overwrite=overwrite)
        shape = {"n_layers": n_layers, "n_heads": n_heads}
        wanted = {"k": head_options.k, "fraction": head_options.fraction}
        first = read_heads(source, **shape, **wanted)
        counts = {i: int(n) for i, n in enumerate(first.layer_counts()) if n}
        report.add(
            f"{first!r}\n{first.frame().to_string(index=False)}\nheads per layer: "
            + ", ".join(f"{layer}: {n}" for layer, n in counts.items()),
            heads=[list(head) for head in first],
            layer_counts=[int(n) for n in first.layer_counts()],
        )
        if other is not None:
            second = read_heads(other, **first.grid.shape, **wanted)
            common = first & second
            report.add(
                f"{other}: {second!r}\nin both: {' '.join(map(str, common)) or 'none'}; "
                f"Jaccard {first.jaccard(second):.3f}",
                other=[list(head) for head in second],
                common=[list(head) for head in common],
                jaccard=first.jaccard(second),
            )
        if out is not None:
            report.add(f"written to {first.save(out)}", paths=[str(out)])


app.command()(check)
app.command()(compare)
app.command()(transfer)
app.command()(figures)
app.command("report")(report_command)


def main() -> None:
    """Entry point."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    app(joined_shares(sys.argv[1:]))
