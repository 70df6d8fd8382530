"""The command `lm-eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lofit_lens.analysis.cli.console import Report, check_file
from lofit_lens.analysis.cli.groups import option, with_options
from lofit_lens.analysis.cli.options import ModelOptions


@with_options
def lm_eval(
    edit: Annotated[
        str | None,
        typer.Argument(
            help="Folder of a saved edit, or one on the hub; without it the model is scored as it is."
        ),
    ] = None,
    *,
    report: Report,
    model_options: ModelOptions,
    tasks: Annotated[str, option("Tasks, groups or tags of lm-eval, with commas.")],
    num_fewshot: Annotated[
        int | None,
        option("Examples in front of every item. (default: each task's own number)", min=0),
    ] = None,
    chat: Annotated[
        bool,
        option(
            "Put the model's own chat template around every prompt, few-shot examples as turns."
        ),
    ] = False,
    system: Annotated[
        str | None, option("Text of the system turn. (default: left to the template)")
    ] = None,
    limit: Annotated[int | None, option("The first items of each task alone.", min=1)] = None,
    include_path: Annotated[
        Path | None, option("Folder with task files of your own, in lm-eval's format.")
    ] = None,
    out: Annotated[Path | None, option("Folder for lm-eval's results and every item.")] = None,
    overwrite: Annotated[bool, option("Replace the files in --out.")] = False,
) -> None:
    """Run suites of lm-evaluation-harness under a saved edit of any kind.

    Needs `pip install 'lofit-lens[lm-eval]'`. Prompts, few-shot examples and scores are the suites' own.
    The model is that of the run that the edit is from, unless another is named.

    **Example**

        lofit-lens lm-eval runs/tuned --tasks arc_challenge,hellaswag --out suites/tuned
    """
    from lofit_lens.analysis.runs import RunFolder
    from lofit_lens.analysis.suites import lm_eval as suites
    from lofit_lens.edits.files import load_edit

    if out is not None:
        check_file(out / suites.RESULTS, overwrite=overwrite)
    model_options.check()
    loaded = RunFolder(Path(edit)).loaded() if edit is not None else None
    found = load_edit(edit) if edit is not None else None
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    manager = suites.task_manager(include_path)
    suites.check_tasks(names, manager)
    if chat or system is not None:  # refused before the model is loaded
        suites.check_chat(model_options.tokenizer(loaded), chat=chat, system=system)
    scores = suites.lm_eval(
        model_options.load(loaded),
        found,
        names,
        manager=manager,
        num_fewshot=num_fewshot,
        chat=chat,
        system=system,
        limit=limit,
        batch_size=model_options.batch_size,
        progress=not report.quiet,
    )
    report.add(repr(scores), results=scores.results["results"])
    if out is not None:
        report.add_paths(out, scores.save(out), "results and every item")
