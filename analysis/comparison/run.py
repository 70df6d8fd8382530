"""One run of a comparison: a method on one fold of a task with one seed, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lofit_lens.analysis.study.paired import plain
from lofit_lens.files import read_json_gz, write_json_gz
from lofit_lens.scoring.evaluation import Evaluation

COMPARISON_SCHEMA = 1


@dataclass(frozen=True)
class Cost:
    """What a run cost.

    Attributes:
        parameters: Learned numbers of the edit.
        fit_seconds: Seconds of fitting, with every choice made on validation data.
        score_seconds: Seconds of scoring the test split.
        fit_tokens: Tokens that entered the model while fitting, padding included; a token that
            several texts share counts once where it was run once.
        score_tokens: Tokens that entered the model while scoring the test split, likewise.
    """

    parameters: int = 0
    fit_seconds: float = 0.0
    score_seconds: float = 0.0
    fit_tokens: int = 0
    score_tokens: int = 0


@dataclass(frozen=True, eq=False)
class ComparisonRun:
    """A method on one fold of a task with one seed.

    Attributes:
        method: Name of the method.
        task: Name that all folds of the task share, such as "truthfulqa".
        fold: The task's own name, such as "truthfulqa:0".
        seed: Seed of the run; random heads may be drawn several times for one seed.
        evaluation: Scores, item by item.
        cost: Parameters, seconds and tokens.
        side_effects: Numbers by name: `cross_entropy` and `kl` (in nats per token, on plain text),
            `refusals` (a share of greedy answers), others.
        choices: What was chosen on validation data, such as alpha, k or the layer.
        heads: The heads it edits, as [layer, head]; None if it does not edit heads.
        answers: Greedy answers to open-ended questions, one dictionary each.
        protocol: What all methods had in common; with one fold and seed, all must have the same
            `data_hash` and `templates`.
    """

    method: str
    task: str
    fold: str
    seed: int
    evaluation: Evaluation
    cost: Cost
    side_effects: Mapping[str, float] = field(default_factory=dict)
    choices: Mapping[str, Any] = field(default_factory=dict)
    heads: Sequence[Sequence[int]] | None = None
    answers: Sequence[Mapping[str, Any]] = ()
    protocol: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fitted(self) -> bool:
        """Whether anything was fitted; if not, as zero-shot, the seed makes no difference."""
        return self.cost.parameters > 0 or self.cost.fit_tokens > 0

    def save(self, path: str | Path) -> Path:
        """Write the run with the record of every item as one gzipped JSON file (`.json.gz`)."""
        content = {
            "schema": COMPARISON_SCHEMA,
            "method": self.method,
            "task": self.task,
            "fold": self.fold,
            "seed": self.seed,
            "cost": asdict(self.cost),
            "side_effects": dict(self.side_effects),
            "choices": dict(self.choices),
            "heads": None if self.heads is None else [list(head) for head in self.heads],
            "answers": [dict(answer) for answer in self.answers],
            "protocol": dict(self.protocol),
            "evaluation": self.evaluation.to_json(),
        }
        return write_json_gz(path, content)

    def file_name(self, place: int) -> str:
        """A name for the run's file; `place` is its place among the runs and keeps their order."""
        return f"{place:04}-{plain(self.method)}-on-{plain(self.fold)}-{self.seed}.json.gz"

    @classmethod
    def load(cls, path: str | Path) -> ComparisonRun:
        """Read what `save` wrote.

        Raises:
            LofitLensError: The file is missing or of another format.
        """
        return read_json_gz(path, cls._from_json, what="a run of a comparison")

    @classmethod
    def _from_json(cls, content: Mapping[str, Any]) -> ComparisonRun:
        fields = dict(content)
        found = fields.pop("schema", None)
        if found != COMPARISON_SCHEMA:
            raise ValueError(f"schema {found!r}, expected {COMPARISON_SCHEMA}")
        fields["cost"] = Cost(**fields["cost"])
        fields["evaluation"] = Evaluation.from_json(fields["evaluation"])
        return cls(**fields)

    def __repr__(self) -> str:
        main = f"{self.evaluation.metric_names[0]} {self.evaluation.main}"
        return f"ComparisonRun({self.method} on {self.fold}, seed {self.seed}: {main})"
