"""The tables of a run, for people (Markdown) and for programs (JSON)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.measuring import Check, Result, Row, Spread, Verdict

ROW = "| {:<44} | {:>9} | {:>22} | {:>9} | {:>9} | {:>9} | {:>9} | {:>6} |"


def as_markdown(result: Result, heading: str) -> str:
    """One part: costs, claims, agreement of results."""
    first = result.rows[0].name
    columns = "", "ms", f"time / {first.split(',')[0]}", "first, s", "saved, MB", "peak, MB"
    head = ROW.format(*columns, "tokens/s", "floor")
    lines = [f"## {heading}: {result.title}", "", *result.notes, "", head, _rule(head)]
    lines += [_cost(row) for row in result.rows]
    claims = [_claim(verdict) for verdict in result.verdicts]
    checks = [_check(check) for check in result.checks]
    return "\n".join(
        [
            *lines,
            "",
            *claims,
            *checks,
            "",
            f"{result.rounds} rounds; {result.took:.0f} s in all.",
            "",
        ]
    )


def store(
    folder: Path, machine: Mapping[str, object], results: Mapping[str, Sequence[Result]]
) -> None:
    """Write `benchmarks.json` and `benchmarks.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "machine": machine,
        "results": {name: [_plain(result) for result in parts] for name, parts in results.items()},
    }
    (folder / "benchmarks.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    text = "\n".join(
        [as_heading(machine)]
        + [as_markdown(result, name) for name, parts in results.items() for result in parts]
    )
    (folder / "benchmarks.md").write_text(text, encoding="utf-8")


def as_heading(machine: Mapping[str, object]) -> str:
    """What the run was made on, and how to read the tables."""
    lines = ["# Benchmarks", "", *(f"- {key}: {value}" for key, value in machine.items()), ""]
    return "\n".join(lines) + "\n" + LEGEND


LEGEND = """\
ms: median of a step, or of the whole scoring run. time / ours: median over rounds of the ratio within
a round, and its quartiles. first: seconds before the first round and for a first run. saved:
most that is kept for the backward pass at a time, weights left out. peak: most memory beyond what was
in use. floor: the time of the arithmetic that cannot be avoided, at the machine's best, as a share.
"""


def _plain(result: Result) -> dict[str, object]:
    content = asdict(result)
    for verdict, written in zip(result.verdicts, content["verdicts"], strict=True):
        written["holds"] = verdict.holds
    return content


def _cost(row: Row) -> str:
    return ROW.format(
        row.name,
        f"{1000 * row.seconds:.1f}",
        _spread(row.ratio),
        f"{row.first:.2f}",
        _megabytes(row.saved),
        _megabytes(row.peak),
        "" if row.tokens_per_second is None else f"{row.tokens_per_second:,.0f}",
        "" if row.floor_share is None else f"{row.floor_share:.0%}",
    )


def _claim(verdict: Verdict) -> str:
    claim = verdict.claim
    found = "holds" if verdict.holds else "DOES NOT HOLD"
    return (
        f"- {found}: {claim.of}, {claim.ours} / {claim.other} = {_spread(verdict.ratio)}, "
        f"at most {claim.limit:g}"
    )


def _check(check: Check) -> str:
    found = "holds" if check.holds else "DOES NOT HOLD"
    if check.limit is None:
        return f"- {check.what}: {check.value:.2g}"
    return f"- {found}: {check.what}: {check.value:.2g}, at most {check.limit:g}"


def _spread(ratio: Spread) -> str:
    if ratio.low == ratio.high:
        return f"{ratio.median:.3f}"
    return f"{ratio.median:.3f} ({ratio.low:.3f}-{ratio.high:.3f})"


def _megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:.1f}"


def _rule(head: str) -> str:
    return "|".join("-" * len(cell) for cell in head.split("|"))
