"""What judges make of answers in free text, as tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from lofit_lens.analysis.judging.asked import ASPECTS
from lofit_lens.analysis.study.experiment_folder import rows_of
from lofit_lens.documents import typed
from lofit_lens.files import read_as, write_json, write_whole

if TYPE_CHECKING:
    import pandas as pd

FILE, TABLES = "judged.json", ("judged.csv", "agreement.csv")
SCHEMA = 1

METRICS = ("both", *ASPECTS)

COLUMNS = (
    "judge", "task", "method", "metric", "value", "low", "high", "n", "seeds", "difference",
    "difference_low", "difference_high", "p", "p_holm", "mark", "direction", "unparsed", "refusals",
)  # fmt: skip

AGREED = ("judge", "other", "aspect", "n", "agreement", "kappa")


class _Saved(TypedDict):
    table: list[dict[str, float | int | str | None]]
    agreement: list[dict[str, float | int | str | None]]


@dataclass(frozen=True, eq=False)
class Judged:
    """What judges make of answers in free text.

    Attributes:
        table: The rows of `frame`.
        agreement: One row per pair of judges and aspect, over all answers on which both gave a
            verdict: `n`, `agreement`, the share of equal verdicts, and `kappa`, Cohen's, NaN where all
            verdicts of both are one. The other judge "references" knows the truth of the reference
            answers: the first right and the first wrong one of each question.
    """

    table: pd.DataFrame
    agreement: pd.DataFrame

    def frame(self) -> pd.DataFrame:
        """One row per judge, task, method and metric.

        * `metric`: "both", an answer that is truthful and informative; "truthful"; "informative"; and
          "product", that of the means of the last two, which the paper prints in place of "both".
        * `value`, `low`, `high`, `n`, `seeds`, and the paired difference to the base with its test:
          as in `Comparison.frame`, but with a test for each of the three metrics, corrected within
          judge and metric. An item counts where the judge gave both verdicts for every method and seed.
        * `unparsed`: answers of the method, over all seeds, to which the judge gave no verdict.
        * `refusals`: share of the answers that decline to answer (`is_refusal`), whatever the judge.
        """
        return self.table.copy()

    def save(self, folder: str | Path) -> list[Path]:
        """Write judged.json, judged.csv and agreement.csv into a folder; returns the files."""
        paths = [write_json(Path(folder) / FILE, {"schema": SCHEMA, **self.to_json()})]
        for name, frame in zip(TABLES, (self.table, self.agreement), strict=True):
            paths.append(write_whole(Path(folder) / name, frame.to_csv(index=False).encode()))
        return paths

    def to_json(self) -> dict[str, Any]:
        """Both tables as plain JSON values."""
        return {"table": rows_of(self.table), "agreement": rows_of(self.agreement)}

    @classmethod
    def load(cls, folder: str | Path) -> Judged:
        """Read what `save` wrote.

        Raises:
            LofitLensError: There is none in the folder, or a damaged one.
        """
        import pandas as pd

        def build(content: Any) -> Judged:
            typed(content, _Saved)
            table = pd.DataFrame(content["table"], columns=list(COLUMNS))
            return cls(table, pd.DataFrame(content["agreement"], columns=list(AGREED)))

        return read_as(Path(folder) / FILE, build, schema=SCHEMA, what="judged answers")

    def __repr__(self) -> str:
        judges = ", ".join(self.table["judge"].unique())
        return f"Judged({', '.join(self.table['task'].unique())}; by {judges})"
