"""Verdicts, each asked for once and kept in a file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tqdm.auto import tqdm

from lofit_lens.analysis.judging.asked import ASPECTS, Asked, Aspect, Judge, verdict
from lofit_lens.analysis.study.keys import key_of

Verdicts = Mapping[tuple[Aspect, Asked], bool | None]
"""By aspect and answer; None where the judge's reply says neither yes nor no."""


class Replies:
    """The replies of judges, in a file that is only ever added to, a line of JSON each.

    They are known by the hash of judge, aspect and prompt, which holds question and answer. A line that
    was cut short, as when a process was killed, is asked for again.

    Args:
        path: The file; None keeps them in memory.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = None if path is None else Path(path)
        self._known: dict[str, str] = {}
        there = self.path is not None and self.path.is_file()
        text = self.path.read_text(encoding="utf-8") if self.path and there else ""
        self._cut = text != "" and not text.endswith("\n")
        for line in text.split("\n"):
            try:
                told = json.loads(line)
                self._known[told["key"]] = str(told["reply"])
            except (ValueError, KeyError, TypeError):
                continue

    def verdicts(
        self,
        judge: Judge,
        answers: Iterable[Asked],
        aspects: Sequence[Aspect] = ASPECTS,
        *,
        progress: bool = True,
    ) -> Verdicts:
        """The verdicts of a judge on some answers, asked for where they are not known.

        Raises:
            LofitLensError: The judge cannot be asked; what it said until then is kept.
        """
        answers = list(dict.fromkeys(answers))
        found: dict[tuple[Aspect, Asked], bool | None] = {}
        for aspect in aspects:
            identity = judge.identity(aspect)
            prompts = {asked: judge.prompt(aspect, asked) for asked in answers}
            keys = {prompt: key_of([identity, aspect, prompt]) for prompt in prompts.values()}
            new = {p: asked for asked, p in prompts.items() if keys[p] not in self._known}
            places = list(new.items())
            with tqdm(total=len(new), desc=aspect, leave=False, disable=not progress) as bar:
                for place, reply in judge.replies(aspect, list(new)) if new else ():
                    prompt, asked = places[place]
                    told = {"judge": judge.name, "aspect": aspect, "question": asked.question}
                    self._keep(
                        {"key": keys[prompt], **told, "answer": asked.answer, "reply": reply}
                    )
                    bar.update()
            found |= {(aspect, a): verdict(self._known[keys[p]]) for a, p in prompts.items()}
        return found

    def _keep(self, told: Mapping[str, str]) -> None:
        self._known[told["key"]] = told["reply"]
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n" * self._cut + json.dumps(told) + "\n")
            self._cut = False
