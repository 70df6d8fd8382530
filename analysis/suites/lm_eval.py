"""Suites of lm-evaluation-harness under an edit."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lofit_lens.chat import ChatTemplate
from lofit_lens.edits.files import hash_of
from lofit_lens.errors import LofitLensError, UnsupportedError, check_whole
from lofit_lens.fast.in_force import in_force
from lofit_lens.fast.memory import BatchSize, check_batch_size, within_memory
from lofit_lens.files import write_whole
from lofit_lens.randomness import random_state_kept

if TYPE_CHECKING:
    import pandas as pd
    from lm_eval.tasks import TaskManager
    from transformer_lens.model_bridge import TransformerBridge

    from lofit_lens.edits.edit import Edit

RESULTS = "results.json"


@dataclass(frozen=True, eq=False)
class SuiteScores:
    """What lm-evaluation-harness found.

    Attributes:
        results: Its results, as it gives them: scores by task under `results`, settings under
            `config`, to which the edit and the chat template are added.
        samples: Every item by task, likewise: the document, the requests, the answers, the scores.
    """

    results: Mapping[str, Any]
    samples: Mapping[str, Sequence[Mapping[str, Any]]] = field(repr=False)

    def frame(self) -> pd.DataFrame:
        """A row a task or group, filter and metric: `value`, its standard error, and items `n`."""
        import pandas as pd

        rows = []
        for task, scores in self.results["results"].items():
            n = self.results["n-samples"].get(task, {}).get("effective")
            for name, value in scores.items():
                metric, comma, kept = name.partition(",")
                if comma and not metric.endswith("_stderr"):
                    stderr = scores.get(f"{metric}_stderr,{kept}")
                    row = {"task": task, "filter": kept, "metric": metric, "value": value}
                    rows.append(row | {"stderr": stderr, "n": n})
        return pd.DataFrame(rows)

    def save(self, folder: str | Path) -> list[Path]:
        """Write `results.json`, and every item to `samples_TASK.jsonl`, as lm-eval does.

        Returns:
            The files; those that were there are replaced.
        """
        folder = Path(folder)
        texts = {folder / RESULTS: f"{_as_json(self.results, indent=1)}\n"}
        for task, items in self.samples.items():
            path = folder / f"samples_{task.replace('/', '-')}.jsonl"
            texts[path] = "".join(f"{_as_json(_as_kept(item))}\n" for item in items)
        return [write_whole(path, text.encode()) for path, text in texts.items()]

    def __repr__(self) -> str:
        return self.frame().to_string(index=False)


def lm_eval(
    model: TransformerBridge,
    edit: Edit | None,
    tasks: Sequence[str],
    *,
    manager: TaskManager | None = None,
    num_fewshot: int | None = None,
    chat: bool = False,
    system: str | None = None,
    limit: int | None = None,
    batch_size: BatchSize = 32,
    progress: bool = True,
) -> SuiteScores:
    """Run suites of lm-evaluation-harness (extra `lm-eval`) on a model under an edit.

    Prompts, few-shot examples and scores are the suites' own, by lm-eval's own `hf` model; random
    states are given back as they were. Whether items of a suite were trained on is not known here.

    Args:
        model: A bridge with a tokenizer, in eval mode.
        edit: The edit, of any kind; None scores the model as it is.
        tasks: Names of tasks, groups or tags, or paths of task files, as lm-eval knows them.
        manager: What knows the tasks, from `task_manager`; default: those that come with lm-eval.
        num_fewshot: Examples in front of every item; default: each task's own number.
        chat: Whether prompts stand in the chat template of the model's tokenizer, few-shot examples
            as turns, as lm-eval's `--apply_chat_template` puts them.
        system: Text of the system turn; default: left to the template.
        limit: The first items of each task alone, for a trial.
        batch_size: Requests per forward pass; "auto" takes the largest that fits into memory.
        progress: Whether to show bars of the requests.

    Raises:
        LofitLensError: lm-eval is not installed, a task is unknown, lacks a package or does not fit
            into the context, there is no chat template or none with a system turn, or the edit does
            not fit.
        UnsupportedError: The edit cannot be applied to a kind of requests: one of another scope than
            "all" to the perplexity of whole texts, a patch to generation.
        ScoringError: A log-probability or a logit is NaN.

    Examples:
        >>> lm_eval(model, tuned, ["arc_challenge"]).frame()  # doctest: +SKIP
    """
    check_batch_size(batch_size)
    if num_fewshot is not None:
        check_whole("num_fewshot", num_fewshot)
    manager = manager or task_manager()
    check_tasks(tasks, manager)
    if model.tokenizer is None:
        raise UnsupportedError("lm-eval needs the model's tokenizer, and its folder has none.")
    template = check_chat(model.tokenizer, chat=chat, system=system)
    import lm_eval as harness

    from lofit_lens.analysis.suites.edited_lm import EditedLM

    simple_evaluate: Any = harness.simple_evaluate

    def scored(size: int) -> dict[str, Any]:
        return simple_evaluate(
            model=EditedLM(model, batch_size=size, progress=progress),
            tasks=list(tasks),
            task_manager=manager,
            num_fewshot=num_fewshot,
            apply_chat_template=chat,
            system_instruction=system,
            limit=limit,
        )

    device = next(model.original_model.parameters()).device
    try:
        with _states_kept(), in_force(model, edit):
            found = within_memory(scored, batch_size, device)
    except (AssertionError, ImportError, ValueError) as error:  # so it says what it cannot do
        raise LofitLensError(f"lm-eval cannot run {', '.join(tasks)}: {error}") from error
    found["config"]["edit"] = None if edit is None else {"what": repr(edit), "hash": hash_of(edit)}
    found["config"]["chat"] = template
    return SuiteScores(found, found.pop("samples"))


def task_manager(folder: str | Path | None = None) -> TaskManager:
    """What knows the tasks of lm-eval by name; takes seconds, as there are thousands.

    Args:
        folder: Task files of one's own, in lm-eval's format, beside those that come with it.

    Raises:
        LofitLensError: lm-eval is not installed, or there is no folder.
    """
    if folder is not None and not Path(folder).is_dir():
        raise LofitLensError(f"There is no folder {folder} with task files.")
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise LofitLensError(
            f"Running suites of lm-eval needs a package: pip install 'lofit-lens[lm-eval]' ({error})."
        ) from error
    return TaskManager(include_path=folder)


def check_chat(tokenizer: Any, *, chat: bool, system: str | None) -> dict[str, Any] | None:
    """Refuse a chat that lm-eval would score without its system turn, or could not write.

    Returns:
        The system text and the SHA-256 of the template; None without a chat.

    Raises:
        LofitLensError: There is a system text and no chat, or the template does not take it.
    """
    if not chat:
        if system is not None:
            raise LofitLensError(
                "A system text is a part of the chat template; ask for the chat too."
            )
        return None
    digest = ChatTemplate.of(tokenizer, system).record()["template"]
    return {"system": system, "template": digest}


def check_tasks(tasks: Sequence[str], manager: TaskManager) -> None:
    """Refuse tasks that lm-eval does not know.

    Raises:
        LofitLensError: There is one, or none at all.
    """
    if not tasks:
        raise LofitLensError("Name at least one task of lm-eval, such as arc_challenge.")
    known = set(manager.all_tasks)
    for task in tasks:
        if task not in known and not Path(task).is_file():
            near = get_close_matches(task, known) or ["those that `lm-eval ls tasks` lists"]
            raise LofitLensError(
                f"lm-eval has no task {task!r}. Near it: {', '.join(near)}. Name the folder of task "
                "files of your own as well (--include-path)."
            )


def _as_kept(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item in the form of lm-eval's files: requests and their arguments by name, answers as text."""
    from lm_eval.utils import sanitize_list

    requests = {
        f"gen_args_{i}": {f"arg_{j}": argument for j, argument in enumerate(arguments)}
        for i, arguments in enumerate(item["arguments"])
    }
    answers = {name: sanitize_list(item[name]) for name in ("resps", "filtered_resps")}
    return {**item, "arguments": requests, "target": str(item["target"]), **answers}


def _as_json(content: Any, indent: int | None = None) -> str:
    from lm_eval.utils import handle_non_serializable

    return json.dumps(content, default=handle_non_serializable, ensure_ascii=False, indent=indent)


@contextmanager
def _states_kept() -> Iterator[None]:
    """Give back the random states, which lm-eval seeds."""
    ours, numpys = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with random_state_kept():
            yield
    finally:
        random.setstate(ours)
        np.random.set_state(numpys)  # noqa: NPY002
