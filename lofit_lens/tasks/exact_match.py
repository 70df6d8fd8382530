"""Exact match: a generation is compared with the accepted answers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from lofit_lens.errors import check_one_of
from lofit_lens.tasks.generated import Generated

if TYPE_CHECKING:
    from lofit_lens.tasks.task import Example

Match = Literal["exact", "begins"]
"""Whether a prediction has to be an accepted answer, or only to begin with one."""


@dataclass(frozen=True)
class ExactMatch(Generated):
    """Generate greedily and compare with the accepted answers, letter case ignored.

    Attributes:
        max_new_tokens, stop, lead: See `Generated`.
        strip: Whether white space around prediction and answers is ignored.
        after: Take what follows this separator in prompt and generation together, as the paper's
            code does; None takes the generation.
        after_index: Which piece of the split by `after`.
        match: "exact", or "begins": the prediction only has to begin with an accepted answer, up to
            the end of a word; for models that do not stop after the answer.
        pattern: Regular expression; its first match in the text so far is the prediction, without
            one there is none. None takes the whole text.

    Raises:
        LofitLensError: `match` is neither, or no token is to be generated.
    """

    strip: bool = True
    after: str | None = None
    after_index: int = -1
    match: Match = "exact"
    pattern: str | None = None

    def __post_init__(self) -> None:
        check_one_of("match", self.match, get_args(Match))
        super().__post_init__()

    @property
    def metrics(self) -> tuple[str, ...]:
        """EM, or "begins"; one metric."""
        return ("EM" if self.match == "exact" else self.match,)

    @property
    def needs_plain_prompt(self) -> bool:
        """Whether the answer is looked for in the prompt as well."""
        return self.after is not None

    def prediction(self, prompt: str, generated: str) -> str:
        """The answer found in a generation."""
        text = self.before_stop(generated)
        if self.after is not None:
            piece = (prompt + generated).split(self.after)[self.after_index]
            text = piece.partition(self.stop)[0]
        if self.pattern is not None:
            found = re.search(self.pattern, text)
            text = found[0] if found else ""
        return self._normal(text)

    def judge(self, prediction: str, example: Example) -> dict[str, float]:
        """1 for an accepted answer, else 0."""
        return {self.metrics[0]: float(self.is_correct(prediction, example.correct))}

    def is_correct(self, prediction: str, accepted: tuple[str, ...]) -> bool:
        """Whether a prediction is one of the accepted answers."""
        answers = {self._normal(answer) for answer in accepted}
        if self.match == "exact":
            return prediction in answers
        return any(_begins(prediction, answer) for answer in answers)

    def _normal(self, text: str) -> str:
        return (text.strip() if self.strip else text).lower()


def _begins(text: str, answer: str) -> bool:
    """Whether a text begins with an answer that ends there with a word."""
    following = text[len(answer) : len(answer) + 1]
    in_a_word = answer[-1:].isalnum() and following.isalnum()
    return bool(answer) and text.startswith(answer) and not in_a_word
