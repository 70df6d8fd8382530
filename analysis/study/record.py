"""A record: what one cell of an experiment gave, item by item, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from lofit_lens.analysis.study.keys import as_json, key_of, plain
from lofit_lens.documents import check_schema, typed
from lofit_lens.edits.edit import Edit
from lofit_lens.errors import check_seed, check_whole
from lofit_lens.files import read_json_gz, write_json_gz
from lofit_lens.heads import HeadSet
from lofit_lens.scoring.evaluation import EVALUATION_SCHEMA, Evaluation
from lofit_lens.training.rates import RateChoice

RECORD_SCHEMA = 3
"""Schemas 1 and 2 are those of earlier versions; see `earlier`."""

ZERO_SHOT = "zero-shot"
"""The method that leaves the model as it is."""


@dataclass(frozen=True)
class Cost:
    """What a cell cost: its own steps, and those that it shares with others.

    A step that was done once for several cells, such as stage 1, counts whole in each. Of what was
    trained in one forward pass with others each counts its share, less than alone.

    Attributes:
        parameters: Learned numbers of the edit.
        fit_seconds: Seconds of all steps that made the edit, with every choice made on validation
            data.
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


class _Step(TypedDict):
    """What a record tells of a step."""

    step: str
    key: str
    seconds: float
    tokens: int
    warning: NotRequired[str]
    rate_choice: NotRequired[RateChoice]


@dataclass(frozen=True, eq=False)
class Record:
    """A method on one fold of a task with one seed.

    Attributes:
        method: Name of the method.
        task: Name that all folds of the task share, such as "truthfulqa".
        fold: The task's own name, such as "truthfulqa:0".
        seed: Seed of the run; heads may be drawn at random several times for one seed.
        evaluation: Scores, item by item.
        cost: Parameters, seconds and tokens.
        side_effects: Numbers by name: `cross_entropy` and `kl` (in nats per token, on plain text),
            `refusals` (a share of greedy answers), others.
        choices: What was chosen on validation data, such as alpha, k or the layer.
        heads: The heads it edits; None if it does not edit heads.
        answers: Greedy answers to open-ended questions, one dictionary each.
        protocol: All that the scores depend on, as plain JSON values; with one fold and seed, all
            methods must have the same model, data, templates and plain text.
        source: In a transfer of heads the task they were chosen on, or "random".
        draw: Which draw of one seed.
        cut: What makes it a point of a sweep, such as the number of training examples.
        config: How the edit was trained, as in its provenance; None if nothing was.
        steps: The steps that made the edit, each with its name, key, seconds and tokens.
        key: The key of the cell; empty in records of earlier versions, and in those made by hand.
        edit: The edit, where edits are kept; `save` leaves it out.
    """

    method: str
    task: str
    fold: str
    seed: int
    evaluation: Evaluation
    cost: Cost = field(default_factory=Cost)
    side_effects: Mapping[str, float] = field(default_factory=dict)
    choices: Mapping[str, Any] = field(default_factory=dict)
    heads: HeadSet | None = None
    answers: Sequence[Mapping[str, Any]] = ()
    protocol: Mapping[str, Any] = field(default_factory=dict)
    source: str | None = None
    draw: int = 0
    cut: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] | None = None
    steps: Sequence[Mapping[str, Any]] = ()
    key: str = ""
    edit: Edit | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_whole("draw", self.draw)
        typed(self.steps, Sequence[_Step])
        typed(self.cut, Mapping[str, int | float | str])

    @property
    def fitted(self) -> bool:
        """Whether anything was fitted; if not, as zero-shot, the seed makes no difference."""
        return self.cost.parameters > 0 or self.cost.fit_tokens > 0

    @property
    def written(self) -> dict[str, str]:
        """Answers in free text by item: what was generated and scored, or what was written for reading."""
        found = {item["id"]: item.get("prediction") for item in self.evaluation.records}
        if None in found.values():
            found = {answer["id"]: answer["answer"] for answer in self.answers}
        return {name: str(answer) for name, answer in found.items()}

    @property
    def place(self) -> tuple[Any, ...]:
        """Which cell of an experiment it is, whatever it was made with."""
        return place_of(self.method, self.fold, self.seed, self.draw, self.cut)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, without the edit."""
        content = {name: value for name, value in vars(self).items() if name != "edit"}
        content |= {
            "evaluation": self.evaluation.to_json(),
            "cost": asdict(self.cost),
            "heads": None if self.heads is None else self.heads.to_json(),
        }
        return {"schema": RECORD_SCHEMA, **as_json(content)}

    def save(self, path: str | Path) -> Path:
        """Write the record, without the edit, as one gzipped JSON file (`.json.gz`)."""
        return write_json_gz(path, self.to_json())

    @property
    def name(self) -> str:
        """A name for its files, which no other record has."""
        key = self.key or key_of(self.to_json())
        return name_of(self.method, self.fold, self.seed, self.draw, key)

    @classmethod
    def load(cls, path: str | Path) -> Record:
        """Read what `save` wrote, also a run of a comparison or a transfer of earlier versions.

        Raises:
            LofitLensError: The file is missing or of another format.
        """
        return read_json_gz(path, cls.from_json, what="a record of a run")

    @classmethod
    def from_json(cls, content: Any) -> Record:
        """Read what `to_json` gave.

        Raises:
            LofitLensError: The schema is another one, or a field is missing, unknown or of another
                type.
        """
        from lofit_lens.analysis.study.earlier import earlier_record

        check_schema(content, 1, 2, RECORD_SCHEMA)
        fields = {name: part for name, part in content.items() if name not in ("schema", "edit")}
        evaluation: Any = fields.get("evaluation")
        check_schema(evaluation, EVALUATION_SCHEMA)
        fields["evaluation"] = {name: part for name, part in evaluation.items() if name != "schema"}
        found = typed(fields if content["schema"] == RECORD_SCHEMA else earlier_record(fields), cls)
        found.evaluation.check_items()
        return found

    def __repr__(self) -> str:
        main = f"{self.evaluation.metric_names[0]} {self.evaluation.main}"
        return f"Record({self.method} on {self.fold}, seed {self.seed}: {main})"


def place_of(
    method: str, fold: str, seed: int, draw: int = 0, cut: Mapping[str, Any] | None = None
) -> tuple[Any, ...]:
    """Which cell of an experiment; the seed makes no difference to zero-shot, nor does a cut."""
    if method == ZERO_SHOT:
        return method, fold
    return method, fold, seed, draw, tuple(sorted((cut or {}).items()))


def name_of(method: str, fold: str, seed: int, draw: int, key: str) -> str:
    """The name of a record's files."""
    parts = [plain(method), "on", plain(fold), str(seed), *([str(draw)] if draw else [])]
    return f"{'-'.join(parts)}-{key[:12]}"
