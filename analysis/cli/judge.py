"""The command `judge`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lofit_lens.analysis.cli.console import Report
from lofit_lens.analysis.cli.groups import option, with_options
from lofit_lens.analysis.cli.options import AUTO
from lofit_lens.errors import LofitLensError

if TYPE_CHECKING:
    from lofit_lens.analysis.judging.asked import Judge

CACHE = "verdicts.jsonl"
LOCAL = "Judges that are models on this machine"


@with_options
def judge(
    folder: Annotated[
        Path,
        typer.Argument(help="Folder of a finished comparison, or of several, as of a study."),
    ],
    *,
    report: Report,
    judges: Annotated[
        list[str],
        typer.Option(
            "--judge",
            help="allenai, for the published models; TRUE,HELPFUL, two models of the same kind; or "
            "MODEL@URL, a chat model on an OpenAI-compatible server. Give it again for another one.",
        ),
    ],
    cache: Annotated[
        Path | None,
        option(f"File for verdicts, which are asked for once. (default: {CACHE} in FOLDER)"),
    ] = None,
    data_dir: Annotated[Path | None, option("Folder with the paper's files.")] = None,
    device: Annotated[str | None, option("cpu, cuda, cuda:1, … (default: CUDA if any)", LOCAL)] = (
        None
    ),
    dtype: Annotated[str | None, option("float32, bfloat16 or float16.", LOCAL)] = None,
    batch_size: Annotated[Any, option("Prompts per forward pass, or auto.", LOCAL, **AUTO)] = "16",
) -> None:
    """Have the answers of finished comparisons on TruthfulQA judged: truthful, informative (Table 4).

    Answers are those to truthfulqa:gen, or what `compare --answers` wrote; they are read from the records,
    and no model but a judge is run. Questions, answers and reference answers go to the servers named,
    with the key in JUDGE_API_KEY, or OPENAI_API_KEY for OpenAI's own. Tables go into the folder.

    **Example**

        lofit-lens judge runs/open --judge allenai --judge llama3@http://localhost:8000/v1
    """
    from lofit_lens.analysis.judging.judge import answers_in
    from lofit_lens.analysis.judging.judge import judge as judge_answers
    from lofit_lens.analysis.kinds.comparison import KIND, Comparison
    from lofit_lens.analysis.tables.judged import judged_as_text

    asked = [_judge(name, device=device, dtype=dtype, batch_size=batch_size) for name in judges]
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    places = [path for path in (folder, *inside) if (path / KIND.marker).is_file()]
    if not places:
        raise LofitLensError(
            f"There is no finished comparison in {folder}. Name the --out of `compare` or of a study; "
            "unpack one that was packed."
        )
    found = {place: Comparison.load(place) for place in places}
    answered = {p: c for p, c in found.items() if answers_in(c, data_dir=data_dir)} or found
    tables, paths = {}, []
    for place, comparison in answered.items():
        judged = judge_answers(
            comparison,
            asked,
            cache=cache or folder / CACHE,
            data_dir=data_dir,
            progress=not report.quiet,
        )
        paths += judged.save(place)
        tables[place.name] = judged.to_json()
        report.add(judged_as_text(judged))
    report.add_paths(folder, paths, "what the judges said")
    report.add(judged=tables)


def _judge(name: str, **options: Any) -> Judge:
    """A judge as named."""
    from lofit_lens.analysis.judging.local import ALLENAI, LocalJudge
    from lofit_lens.analysis.judging.server import ServerJudge
    from lofit_lens.loading.find import find_model

    model, at, url = name.partition("@http")
    if at:
        return ServerJudge(model, at[1:] + url)
    if name == "allenai":
        return replace(ALLENAI, **options)
    truthful, comma, informative = name.partition(",")
    if not comma or "," in informative:
        raise LofitLensError(
            f"There is no judge {name!r}. Known: allenai; two models as TRUE,HELPFUL; or MODEL@URL, as "
            "llama3@http://localhost:8000/v1."
        )
    for model in (truthful, informative):
        find_model(model)
    return LocalJudge(truthful, informative, **options)
