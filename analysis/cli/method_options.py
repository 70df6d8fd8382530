"""Options of what compares methods: which, at which rates, and what is measured besides."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from lofit_lens.analysis.cli.groups import option
from lofit_lens.documents import check_size, decoded, typed
from lofit_lens.errors import DataError, LofitLensError
from lofit_lens.files import whole
from lofit_lens.tasks import Task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformer_lens.model_bridge import TransformerBridge

    from lofit_lens.analysis.cli.console import Report
    from lofit_lens.analysis.cli.options import HeadOptions, ModelOptions, TrainingOptions
    from lofit_lens.analysis.methods.settings import Settings
    from lofit_lens.tokens import EncodedText

METHODS = "Methods"


@dataclass(frozen=True)
class MethodOptions:
    """What the methods of a comparison share, beside the training options."""

    rate: Annotated[
        list[str] | None,
        option(
            "Learning rate of a tuned rival, as lora=1e-4; give it again for others. (default: the "
            "preset's, or each rival's own)",
            METHODS,
        ),
    ] = None
    random_draws: Annotated[
        int, option("Sets of random heads for each seed; their runs are averaged.", METHODS, min=1)
    ] = 1
    kl_budget: Annotated[
        float | None,
        option("Largest KL divergence on the plain text, in nats a token, for alpha.", METHODS),
    ] = None
    text: Annotated[
        Path | None,
        option(
            "Plain text to measure side effects on: a JSON list of strings, or one text a line. "
            "(default: sampled from the model)",
            METHODS,
        ),
    ] = None

    def check(
        self,
        tasks: Sequence[Task],
        model: ModelOptions,
        heads: HeadOptions,
        training: TrainingOptions,
    ) -> None:
        """Refuse what no model can meet, before one is loaded.

        Raises:
            LofitLensError: A value is out of range, an option does not suit a comparison, or a test
                item is among the training items.
            DataError: The file of --text cannot be read.
        """
        from lofit_lens.analysis.baselines.validation import check_kl_budget
        from lofit_lens.analysis.kinds.compare import check_tasks
        from lofit_lens.analysis.methods.settings import PAPER_FRACTION

        check_tasks(tasks)
        if training.component is not None:
            raise LofitLensError(
                "A comparison names what is learned: lofit is lofit/bias, lofit-scale is lofit/scale. Leave "
                "--component out."
            )
        heads.check(needed=False)
        training.check(tasks, heads.share(PAPER_FRACTION))
        check_kl_budget(self.kl_budget)
        if model.batch_size == "auto":
            raise LofitLensError(
                "A comparison needs a number as --batch-size: its methods read activations in batches."
            )
        self.rates()
        self.plain_text()

    def settings(
        self,
        tasks: Sequence[Task],
        model: TransformerBridge,
        batch_size: int,
        heads: HeadOptions,
        training: TrainingOptions,
        report: Report,
    ) -> dict[str, Settings]:
        """What the options and presets say, by name of the task."""
        from lofit_lens.analysis.methods.presets import preset_settings
        from lofit_lens.analysis.methods.settings import PAPER_FRACTION
        from lofit_lens.attention import heads_of

        total, preset = heads_of(model).total, training.preset
        heads = heads.under(preset, total, report, default=PAPER_FRACTION)
        found = {}
        for task in tasks:
            start = preset_settings(preset, task.name, share=0.1)  # the stages are set below
            sized = dataclasses.replace(start, k=heads.k, fraction=heads.fraction)
            found[task.name] = dataclasses.replace(
                sized,
                scope=training.scope or "all",
                selection=training.selection(task),
                tuning=training.tuning(task, sized.n_heads(heads_of(model)) / total),
                rates={**start.rates, **self.rates()},
                kl_budget=self.kl_budget,
                random_draws=self.random_draws,
                batch_size=batch_size,
            )
        return found

    def texts(self, model: TransformerBridge) -> tuple[EncodedText, ...] | None:
        """The plain text for a model; None: sampled from it."""
        from lofit_lens.analysis.measure.side_effects import encode_texts

        plain = self.plain_text()
        return None if plain is None else encode_texts(model, plain)

    def plain_text(self) -> list[str] | None:
        """The plain text, from a JSON list of strings, or from the lines of a file.

        Raises:
            DataError: The file cannot be read.
        """
        if self.text is None:
            return None
        try:
            content = whole(self.text)
            if self.text.suffix == ".json":
                return typed(decoded(content), list[str])
            check_size(content)
            return content.decode().splitlines()
        except (OSError, ValueError, LofitLensError) as error:
            raise DataError(f"{self.text} cannot be read as text: {error}.") from error

    def rates(self) -> dict[str, float]:
        """Learning rates from NAME=NUMBER.

        Raises:
            LofitLensError: One is for a method that has none, or is no number above 0.
        """
        from lofit_lens.analysis.methods.whole import TRAINED

        rates = {}
        for text in self.rate or ():
            name, _, number = text.partition("=")
            try:
                rates[name] = float(number)
            except ValueError:
                rates[name] = math.nan
            if name not in TRAINED or not rates[name] > 0:
                raise LofitLensError(
                    f"--rate takes NAME=NUMBER, as lora=1e-4, for {', '.join(TRAINED)}; got {text!r}."
                )
        return rates


def names_of(methods: str) -> list[str]:
    """The methods named by one text, with commas, each once; "selectors" are those of Table 2.

    Raises:
        LofitLensError: A name is unknown.
    """
    from lofit_lens.analysis.kinds.compare import without_zero_shot
    from lofit_lens.analysis.kinds.selectors import SELECTOR_METHODS
    from lofit_lens.analysis.methods.names import named_methods

    sets: dict[str, Sequence[str]] = {"selectors": SELECTOR_METHODS}  # of the paper's Table 2
    typed = [name.strip() for name in methods.split(",")]
    names = list(dict.fromkeys(name for part in typed for name in sets.get(part, (part,))))
    named_methods(list(without_zero_shot(names)))
    return names
