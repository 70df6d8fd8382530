"""A scoring: whether the first letter of a generation is that of an accepted answer."""

from __future__ import annotations

from dataclasses import dataclass

from lofit_lens.tasks.generated import Generated
from lofit_lens.tasks.task import Example


@dataclass(frozen=True)
class FirstLetter(Generated):
    """Generate greedily and compare the first letters, letter case ignored."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """One metric."""
        return ("first letter",)

    def prediction(self, prompt: str, generated: str) -> str:  # noqa: ARG002
        """The first letter of a generation."""
        return self.before_stop(generated).strip().lower()[:1]

    def judge(self, prediction: str, example: Example) -> dict[str, float]:
        """1 for that of an accepted answer, else 0."""
        letters = {answer.strip().lower()[:1] for answer in example.correct}
        return {"first letter": float(prediction in letters)}
