"""The page of the documentation that says how each family fares."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.families import Row

PAGE = Path(__file__).parents[1] / "docs" / "guide" / "families.md"

ABOUT = """\
# Families

What works with which family, found by trying: `make families` writes this page. For each row a tiny random
model is saved with a tokenizer and loaded with `load_model`. Then

* a scale and a bias on some heads are compared with a forward pre-hook on the output projection of the
  plain Hugging Face model (*edit*: the largest difference of a logit, relative to the largest logit);
* scores of candidates and losses of training are compared between the fast paths and the plain one
  (*fast*: the largest difference, in nats);
* both stages select, tune and score, and scores and edit are saved and read again; greedy tokens under
  the edit are those of the plain model with the pre-hook. Where a row stands, all of this holds;
* the edit is [exported](keep-and-share.md#export) and the checkpoint reloaded (*export*: the
  largest difference of a logit, relative to the largest; a number in brackets names the reason why not).

Sizes are read from the model. In hybrid models **some layers have no attention heads**: shares of heads,
random draws and head sets count the heads there are, and figures hatch the layers without. Where
**heads differ in width** (Gemma 4) or are not as wide as the configuration's `head_dim` (DeepSeek's
latent attention), z has the width of the output projection; rows of an edit are as long as the
widest head and end in zeros for narrower ones.

Made with {versions}.
"""

HEAD = """
| family | layers x heads, width of z | edit | fast | export |
|---|---|---|---|---|
"""

HYBRID = """
## Hybrid models

Everything works on the layers that have heads, except the direct contributions of heads to a logit
(`direct_attribution`): what the other layers write is not split into heads, so it is refused. Rivals
that change attention (LoRA on queries and values, BitFit) act on the same layers.
"""

REFUSED = """
## Refused when loaded

| family | message |
|---|---|
"""


def write_page(rows: Sequence[Row], path: Path = PAGE) -> Path:
    """Write the page.

    Args:
        rows: What was found, family by family.
        path: The page.
    """
    names = ("torch", "transformers", "transformer-lens")
    versions = ", ".join(f"{name} {version(name).split('+')[0]}" for name in names)
    reasons: list[str] = []
    lines = [_line(row, reasons) for row in rows if not row.refused]
    text = ABOUT.format(versions=versions) + HEAD + "\n".join(lines) + "\n"
    text += "\nNo export:\n\n" + "\n".join(f"{i}. {why}" for i, why in enumerate(reasons, 1)) + "\n"
    refused = [f"| {row.family} | {_escaped(row.refused)} |" for row in rows if row.refused]
    path.write_text(text + HYBRID + REFUSED + "\n".join(refused) + "\n", encoding="utf-8")
    return path


def _line(row: Row, reasons: list[str]) -> str:
    if row.error or row.edit is None or row.fast is None:
        return f"| {row.family} | {row.heads} | **{_escaped(row.error)}** | | |"
    export = row.export
    if export.startswith("no: "):
        why = _escaped(export.removeprefix("no: ").replace(row.architecture, "The family"))
        if why not in reasons:
            reasons.append(why)
        export = f"no ({reasons.index(why) + 1})"
    edit = "equal" if row.edit == 0 else f"{row.edit:.0e}"
    return f"| {row.family} | {row.heads} | {edit} | {row.fast:.0e} | {export} |"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
