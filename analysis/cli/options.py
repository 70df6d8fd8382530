"""Options that several commands share, in groups (see `groups`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lofit_lens.analysis.cli.groups import option
from lofit_lens.errors import LofitLensError
from lofit_lens.tasks import Task

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from lofit_lens.analysis.cli.console import Report
    from lofit_lens.training import SelectionConfig, TuningConfig


def _batch_size(text: str) -> int | str:
    """A batch size as typed."""
    if text == "auto":
        return text
    if text.isdecimal() and int(text):
        return int(text)
    raise typer.BadParameter(f"{text!r} is neither a whole number of at least 1 nor auto.")


AUTO: Any = {"parser": _batch_size, "metavar": "<int|auto>"}
MODEL, TASK, HEADS, TRAINING = "Model", "Task", "Heads", "Training"

Loaded = Mapping[str, str | None] | None
"""What a run was made with; see `RunFolder.loaded`."""


@dataclass(frozen=True)
class ModelOptions:
    """Which model, and where."""

    model: Annotated[
        str | None,
        option(
            "embedded, a folder in Hugging Face format, a .gguf file, or a name on the hub.", MODEL
        ),
    ] = None
    device: Annotated[str | None, option("cpu, cuda, cuda:1, … (default: CUDA if any)", MODEL)] = (
        None
    )
    dtype: Annotated[str | None, option("float32, bfloat16 or float16.", MODEL)] = None
    quantization: Annotated[
        str | None, option("bnb-4bit or bnb-8bit: weights in 4 or 8 bits, on CUDA.", MODEL)
    ] = None
    revision: Annotated[str | None, option("Branch, tag or commit on the hub.", MODEL)] = None
    n_devices: Annotated[int | None, option("Spread the model over CUDA devices.", MODEL)] = None
    batch_size: Annotated[
        Any,
        option(
            "Sequences per forward pass in scoring, or auto: the most that fit into memory.",
            MODEL,
            **AUTO,
        ),
    ] = "32"

    def check(self) -> None:
        """Refuse the path of a model that is not there, before any work.

        Raises:
            LofitLensError: There is no model folder.
        """
        from lofit_lens.model import find_model

        if self.model is not None:
            find_model(self.model)

    def load(self, run: Loaded = None) -> TransformerBridge:
        """Load the model; that of a run, in its revision and dtype, where --model is not given."""
        from lofit_lens.model import load_model

        name, of_run = self._named(run)
        return load_model(
            name,
            device=self.device,
            dtype=self.dtype or of_run.get("dtype"),  # pyright: ignore[reportArgumentType]
            quantization=self.quantization or of_run.get("quantization"),  # pyright: ignore[reportArgumentType]
            revision=self.revision or of_run.get("revision"),
            n_devices=self.n_devices,
        )

    def tokenizer(self, run: Loaded = None) -> Any:
        """The tokenizer alone: what its template refuses is refused before the model is loaded."""
        from lofit_lens.model import read_tokenizer

        name, of_run = self._named(run)
        return read_tokenizer(name, revision=self.revision or of_run.get("revision"))

    def _named(self, run: Loaded) -> tuple[str, Mapping[str, str | None]]:
        """The name of the model, and what is known of it if it is that of a run."""
        of_run = run if run and self.model is None else {}
        name = self.model or of_run.get("model")
        if name is None:
            raise LofitLensError("Say which model: --model FOLDER_OR_NAME.")
        return name, of_run


@dataclass(frozen=True)
class HeadOptions:
    """How many heads."""

    fraction: Annotated[float | None, option("Share of heads, such as 0.03.", HEADS)] = None
    k: Annotated[int | None, option("Number of heads instead.", HEADS, "--k", "-k")] = None

    def check(self, *, needed: bool = True) -> None:
        """Refuse what no model can meet, before one is loaded.

        Args:
            needed: Whether one of the two has to be given.

        Raises:
            LofitLensError: Both are given, or neither though one is needed, or one is out of range.
        """
        from lofit_lens.heads import number_of_heads

        if self.k is not None and self.k < 1:
            raise LofitLensError(f"k must be 1 or more, got {self.k}.")
        if needed or self.fraction is not None:
            number_of_heads(self.k or 1, k=self.k, fraction=self.fraction)

    def share(self, default: float | None = None) -> float | None:
        """The share of heads, `default` where nothing is given; None for a number of them."""
        if self.k is not None:
            return None
        return default if self.fraction is None else self.fraction

    def under(
        self, preset: str | None, total: int, report: Report, *, default: float | None = None
    ) -> HeadOptions:
        """The same, with the paper's own number where a preset of it is asked for 3% or 10%.

        That number is for a model of as many heads as the paper's; of another the share is taken.

        Args:
            preset: That of the training options.
            total: Heads of the model.
            report: Where the number is named.
            default: The share where neither is given.
        """
        from lofit_lens.analysis.methods.presets import preset_heads

        fraction = self.share(default)
        k = None if fraction is None else preset_heads(preset, total, fraction)
        if k is None:
            return self
        report.say(f"--preset {preset}: the paper's {fraction:.0%} of {total} heads are {k}")
        return HeadOptions(k=k)


@dataclass(frozen=True)
class TrainingOptions:
    """How to train; what is not given keeps the default of the stage."""

    seed: Annotated[int, option("Seed of parameters, order and draws.", TRAINING)] = 42
    preset: Annotated[
        str | None,
        option(
            "The paper's settings (Table 6) for gemma-7b, llama2-7b or llama2-13b on the task; or "
            "embedded, those of the embedded model.",
            TRAINING,
        ),
    ] = None
    objective: Annotated[
        str | None, option("sft, dpo, ipo or choice. (default: the task's)", TRAINING)
    ] = None
    scope: Annotated[
        str | None,
        option("Tokens edited: all, after_prompt, iti_compat or last. (default: all)", TRAINING),
    ] = None
    epochs: Annotated[int | None, option("Passes over the data. (default: 5)", TRAINING)] = None
    train_batch_size: Annotated[
        int | None, option("Examples per optimiser step. (default: 8)", TRAINING)
    ] = None
    micro_batch_size: Annotated[
        Any,
        option(
            "Examples per forward pass, or auto: the most that fit into memory.", TRAINING, **AUTO
        ),
    ] = None
    weight_decay: Annotated[float | None, option("AdamW's. (default: 0.0)", TRAINING)] = None
    gradient_checkpointing: Annotated[
        bool, option("Recompute activations to save memory.", TRAINING)
    ] = False
    selection_lr: Annotated[
        str | None,
        option(
            "Learning rate of stage 1, or auto: chosen on validation. (default: 0.005)", TRAINING
        ),
    ] = None
    l1: Annotated[float | None, option("Lambda of stage 1. (default: 0.001)", TRAINING)] = None
    tuning_lr: Annotated[
        str | None,
        option(
            "Learning rate of stage 2, or auto: chosen on validation. (default: 0.01)", TRAINING
        ),
    ] = None
    component: Annotated[
        str | None, option("Stage 2 tunes: bias or scale. (default: bias)", TRAINING)
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
            # the paper's two settings differ in the learning rate alone
            nearest = 0.1 if fraction > 0.05 or self.tuning_lr else 0.03
            base = TuningConfig.paper(self.preset, paper_task(task), fraction=nearest)
        given = {"learning_rate": _rate_or_auto(self.tuning_lr), "component": self.component}
        return dataclasses.replace(base, **self._given(given))

    def check(self, tasks: Sequence[Task], share: float | None = None) -> None:
        """Refuse settings that cannot be trained with, before a model is loaded.

        Args:
            tasks: The tasks.
            share: Of the heads, where it is known; the paper has settings at 10% for every task.

        Raises:
            LofitLensError: A value is out of range, a task has no preset, or it lacks what the
                objective needs.
        """
        for task in tasks:
            self.selection(task)
            self.tuning(task, fraction=0.1 if share is None else share)
            task.check_objective(self.objective or task.objective)

    def hint(self, model: str | None, report: Report) -> None:
        """Tell someone who trains the embedded model at learning rates not made for it."""
        from lofit_lens.identity import EMBEDDED

        if model == EMBEDDED and not (self.preset or self.selection_lr or self.tuning_lr):
            report.hint(
                "The default learning rates are too small for the embedded model; give --preset embedded."
            )

    def _given(self, own: Mapping[str, Any]) -> dict[str, Any]:
        alike = ("objective", "scope", "epochs", "micro_batch_size", "weight_decay")
        shared = {name: getattr(self, name) for name in (*alike, "gradient_checkpointing", "seed")}
        told = {**shared, "batch_size": self.train_batch_size, **own}
        return {name: value for name, value in told.items() if value is not None}


def _rate_or_auto(text: str | None) -> float | str | None:
    """A learning rate as typed; what is no number is left to the check of the configuration."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def paper_task(task: Task) -> str:
    """The name under which the paper's tables have a task."""
    return task.name.partition(":")[0]
