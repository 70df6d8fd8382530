"""What judges make of the answers of a comparison, as text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lofit_lens.analysis.tables.cells import difference, interval, score

if TYPE_CHECKING:
    import pandas as pd

    from lofit_lens.analysis.judging.judged import Judged

LEGEND = (
    "Truthful, informative and both in %, with 95% intervals; product: of the means of the first two. "
    "An item counts where the judge gave both verdicts for every method and seed; unparsed: answers to "
    "which it gave none. Differences of both to the base in points, paired by seed and item; p by "
    "Holm's method. Refusals: % of answers that decline, by a pattern, not by the judge."
)


def judged_tables(judged: Judged) -> Iterator[tuple[str, pd.DataFrame]]:
    """A table of text for each judge and task, with its caption."""
    import pandas as pd

    for (judge, task), part in judged.frame().groupby(["judge", "task"], sort=False):
        lines = []
        for method, rows in part.groupby("method", sort=False):
            by_metric = {row["metric"]: row for row in rows.to_dict("records")}
            both, product = by_metric["both"], by_metric["product"]
            line = {"method": method}
            for metric in ("truthful", "informative", "both"):
                line[metric] = score(by_metric[metric]) + interval(by_metric[metric])
            line["product"] = f"{100 * product['value']:.1f}"
            line["difference"] = difference(both)
            line["p (Holm)"] = f"{both['p_holm']:.2g}" if line["difference"] else ""
            line["unparsed"] = f"{both['unparsed']}"
            line["refusals"] = f"{100 * both['refusals']:.1f}"
            lines.append(line)
        n, seeds = (part[name].max() for name in ("n", "seeds"))
        caption = f"{task}, judged by {judge} (n = {n:.0f}, seeds: {seeds:.0f})"
        yield caption, pd.DataFrame(lines)


def judged_as_text(judged: Judged) -> str:
    """For a terminal."""
    parts = [f"{cap}\n{table.to_string(index=False)}" for cap, table in judged_tables(judged)]
    if len(judged.agreement):
        parts.append(f"Agreement of judges\n{judged.agreement.round(3).to_string(index=False)}")
    return "\n\n".join([*parts, textwrap.fill(LEGEND, 100)])
