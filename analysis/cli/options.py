"""Options that several commands share: groups of them, written once as dataclasses.

`@with_options` puts the fields of each group into the signature that typer reads, and hands the
command the filled groups.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from lofit_lens.analysis.cli.console import Report
    from lofit_lens.tasks import Task
    from lofit_lens.training import SelectionConfig, TuningConfig


def _option(text: str, panel: str, *names: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel)


MODEL, TASK, HEADS, TRAINING = "Model", "Task", "Heads", "Training"


@dataclass(frozen=True)
class ModelOptions:
    """Which model, and where."""

    model: Annotated[
        str | None,
        _option("embedded, a folder in Hugging Face format, or a name on the hub.", MODEL),
    ] = None
    device: Annotated[str | None, _option("cpu, cuda, cuda:1, … (default: CUDA if any)", MODEL)] = (
        None
    )
    dtype: Annotated[str | None, _option("float32, bfloat16 or float16.", MODEL)] = None
    revision: Annotated[str | None, _option("Branch, tag or commit on the hub.", MODEL)] = None
    n_devices: Annotated[int | None, _option("Spread the model over CUDA devices.", MODEL)] = None
    batch_size: Annotated[int, _option("Sequences per forward pass in scoring.", MODEL)] = 32

    def load(self, run: Mapping[str, str | None] | None = None) -> TransformerBridge:
        """Load the model; that of a run, in its revision and dtype, where --model is not given."""
        from lofit_lens.errors import LofitLensError
        from lofit_lens.model import load_model

        of_run = run if run and self.model is None else {}
        name = self.model or of_run.get("model")
        if name is None:
            raise LofitLensError("Say which model: --model FOLDER_OR_NAME.")
        return load_model(
            name,
            device=self.device,
            dtype=self.dtype or of_run.get("dtype"),  # pyright: ignore[reportArgumentType]
            revision=self.revision or of_run.get("revision"),
            n_devices=self.n_devices,
        )


@dataclass(frozen=True)
class TaskOptions:
    """Which task; the columns of a file of one's own."""

    task: Annotated[
        str | None,
        _option(
            "truthfulqa (both folds), truthfulqa:0, truthfulqa:1, mquake, clutrr, embedded:truth, "
            "embedded:kinship, embedded:edit, or a .csv, .tsv, .jsonl or .json file.",
            TASK,
        ),
    ] = None
    data_dir: Annotated[
        Path | None, _option("Folder with the files of the paper's tasks.", TASK)
    ] = None
    prompt: Annotated[
        str | None, _option('Template over the columns, as "Q: {question} A:".', TASK)
    ] = None
    answer: Annotated[str | None, _option("Column of the right answer.", TASK)] = None
    choices: Annotated[
        list[str] | None,
        _option("Column of the candidates; give it again for several columns.", TASK),
    ] = None
    separator: Annotated[
        str | None, _option("What separates the candidates in one column.", TASK)
    ] = None
    answer_is: Annotated[
        str | None, _option("The answer column holds: text, letter, index0 or index1.", TASK)
    ] = None
    answer_prefix: Annotated[
        str | None, _option("Text between prompt and answer. (default: a blank)", TASK)
    ] = None
    accepted: Annotated[str | None, _option("Column of further accepted answers.", TASK)] = None
    good: Annotated[str | None, _option("Column of the better sentence of a pair.", TASK)] = None
    bad: Annotated[str | None, _option("Column of the worse sentence.", TASK)] = None
    group: Annotated[str | None, _option("Column whose equal values stay in one split.", TASK)] = (
        None
    )
    shares: Annotated[
        tuple[float, float, float] | None,
        _option("Shares for training, validation and test. (default: 0.4 0.1 0.5)", TASK),
    ] = None
    split_seed: Annotated[int | None, _option("Seed of the split. (default: 42)", TASK)] = None
    max_new_tokens: Annotated[
        int | None, _option("Length of a generated answer. (default: 16)", TASK)
    ] = None
    stop: Annotated[
        str | None, _option("Text that ends a generated answer. (default: a line break)", TASK)
    ] = None
    match: Annotated[
        str | None,
        _option(
            "A generated answer is right if it is the answer (exact), or begins with it (begins). "
            "(default: exact)",
            TASK,
        ),
    ] = None

    def load(self, seed: int) -> list[Task]:
        """The folds of the task."""
        from lofit_lens.errors import LofitLensError
        from lofit_lens.tasks import load_tasks

        if self.task is None:
            raise LofitLensError("Say which task: --task NAME_OR_FILE.")
        options: dict[str, Any] = {
            f.name: value
            for f in dataclasses.fields(self)
            if f.name not in ("task", "data_dir") and (value := getattr(self, f.name)) is not None
        }
        if "shares" in options:
            options["split"] = options.pop("shares")
        if len(options.get("choices", ())) == 1:
            options["choices"] = options["choices"][0]
        return load_tasks(self.task, seed=seed, data_dir=self.data_dir, options=options)


@dataclass(frozen=True)
class HeadOptions:
    """How many heads."""

    fraction: Annotated[float | None, _option("Share of heads, such as 0.03.", HEADS)] = None
    k: Annotated[int | None, _option("Number of heads instead.", HEADS, "--k", "-k")] = None


@dataclass(frozen=True)
class TrainingOptions:
    """How to train; what is not given keeps the default of the stage."""

    seed: Annotated[int, _option("Seed of parameters, order and draws.", TRAINING)] = 42
    preset: Annotated[
        str | None,
        _option(
            "The paper's settings (Table 6) for gemma-7b, llama2-7b or llama2-13b on the task; or "
            "embedded, those of the embedded model.",
            TRAINING,
        ),
    ] = None
    objective: Annotated[
        str | None, _option("sft, dpo or choice. (default: the task's)", TRAINING)
    ] = None
    scope: Annotated[
        str | None,
        _option("Tokens edited: all, after_prompt, iti_compat or last. (default: all)", TRAINING),
    ] = None
    epochs: Annotated[int | None, _option("Passes over the data. (default: 5)", TRAINING)] = None
    train_batch_size: Annotated[
        int | None, _option("Examples per optimiser step. (default: 8)", TRAINING)
    ] = None
    micro_batch_size: Annotated[
        str | None,
        _option("Examples per forward pass, or auto: the most that fit into memory.", TRAINING),
    ] = None
    weight_decay: Annotated[float | None, _option("AdamW's. (default: 0.0)", TRAINING)] = None
    gradient_checkpointing: Annotated[
        bool, _option("Recompute activations to save memory.", TRAINING)
    ] = False
    selection_lr: Annotated[
        str | None,
        _option(
            "Learning rate of stage 1, or auto: chosen on validation. (default: 0.005)", TRAINING
        ),
    ] = None
    l1: Annotated[float | None, _option("Lambda of stage 1. (default: 0.001)", TRAINING)] = None
    tuning_lr: Annotated[
        str | None,
        _option(
            "Learning rate of stage 2, or auto: chosen on validation. (default: 0.01)", TRAINING
        ),
    ] = None
    component: Annotated[
        str | None, _option("Stage 2 tunes: bias or scale. (default: bias)", TRAINING)
    ] = None

    def selection(self, task: Task) -> SelectionConfig:
        """The configuration of stage 1."""
        from lofit_lens.embedded.settings import SELECTION
        from lofit_lens.identity import EMBEDDED
        from lofit_lens.training import SelectionConfig

        base = SelectionConfig()
        if self.preset == EMBEDDED:
            base = SELECTION
        elif self.preset:
            base = SelectionConfig.paper(self.preset, paper_task(task))
        given = {"learning_rate": _rate_or_auto(self.selection_lr), "l1": self.l1}
        return dataclasses.replace(base, **self._given(given))

    def tuning(self, task: Task, fraction: float) -> TuningConfig:
        """The configuration of stage 2 for a share of heads; a preset knows 3% and 10%."""
        from lofit_lens.embedded.settings import TUNING
        from lofit_lens.identity import EMBEDDED
        from lofit_lens.training import TuningConfig

        base = TuningConfig()
        if self.preset == EMBEDDED:
            base = TUNING
        elif self.preset:
            nearest = 0.1 if fraction > 0.05 else 0.03
            base = TuningConfig.paper(self.preset, paper_task(task), fraction=nearest)
        given = {"learning_rate": _rate_or_auto(self.tuning_lr), "component": self.component}
        return dataclasses.replace(base, **self._given(given))

    def hint(self, model: str | None, report: Report) -> None:
        """Tell someone who trains the embedded model at learning rates not made for it."""
        from lofit_lens.identity import EMBEDDED

        if model == EMBEDDED and not (self.preset or self.selection_lr or self.tuning_lr):
            report.say(
                "Note: the default learning rates are too small for the embedded model; give --preset "
                "embedded."
            )

    def _given(self, own: Mapping[str, Any]) -> dict[str, Any]:
        shared = {
            "objective": self.objective,
            "scope": self.scope,
            "epochs": self.epochs,
            "batch_size": self.train_batch_size,
            "micro_batch_size": _number_or_auto(self.micro_batch_size),
            "weight_decay": self.weight_decay,
            "gradient_checkpointing": self.gradient_checkpointing,
            "seed": self.seed,
        }
        return {name: value for name, value in (shared | dict(own)).items() if value is not None}


def _number_or_auto(text: str | None) -> int | str | None:
    """A batch size as typed; what is no number is left to the check of the configuration."""
    return int(text) if text is not None and text.isdecimal() else text


def _rate_or_auto(text: str | None) -> float | str | None:
    """A learning rate as typed; what is no number is left to the check of the configuration."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


EMBEDDED_TASKS = "embedded:truth,embedded:kinship,embedded:edit"


def as_embedded(
    model: ModelOptions, training: TrainingOptions
) -> tuple[ModelOptions, TrainingOptions]:
    """What is left open as in the demo: the documented numbers are those of the CPU in float32."""
    from lofit_lens.identity import EMBEDDED

    device, dtype = model.device or "cpu", model.dtype or "float32"
    return (
        dataclasses.replace(model, model=EMBEDDED, device=device, dtype=dtype),
        dataclasses.replace(training, preset=training.preset or EMBEDDED),
    )


def paper_task(task: Task) -> str:
    """The name under which the paper's tables have a task."""
    return task.name.partition(":")[0]


def with_options(**groups: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of some groups; it receives each group as an argument.

    Args:
        groups: The name of the command's argument and its dataclass.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = {
            name: parameter.replace(annotation=get_type_hints(command, include_extras=True)[name])
            for name, parameter in inspect.signature(command).parameters.items()
            if name not in groups
        }
        shared = {
            f.name: inspect.Parameter(
                f.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=f.default,
                annotation=get_type_hints(group, include_extras=True)[f.name],
            )
            for group in groups.values()
            for f in dataclasses.fields(group)
        }

        @functools.wraps(command)
        def run(**values: Any) -> None:
            filled = {
                name: group(**{f.name: values.pop(f.name) for f in dataclasses.fields(group)})
                for name, group in groups.items()
            }
            command(**filled, **values)

        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own.values()]
        run.__signature__ = inspect.Signature([*parameters, *shared.values()])  # pyright: ignore[reportAttributeAccessIssue]
        run.__annotations__ = {p.name: p.annotation for p in (*parameters, *shared.values())}
        return run

    return decorate
