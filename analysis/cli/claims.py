"""The command `claims`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lofit_lens.analysis.cli.console import Report
from lofit_lens.analysis.cli.groups import option, with_options


@with_options
def claims(
    folder: Annotated[
        Path,
        typer.Argument(help="Folder of a finished run or study, or one packed."),
    ],
    *,
    report: Report,
    margin: Annotated[float, option("What counts as no difference, in points of percent.")] = 2.0,
) -> None:
    """Test the paper's claims on finished runs: each difference with its interval, and a verdict.

    LoFiT over steering (Table 1), scale over other selectors (Table 2), on par with LoRA, RED and
    LoReFT (Table 3), own heads over those of other tasks (Figure 2), heads in common between seeds
    (Figure 6); and against them, that random heads do as well (Wang and Veitch, arXiv 2502.11447).
    Each is tested where the run has the methods for it.
    """
    from lofit_lens.analysis.reading.open import open_study
    from lofit_lens.analysis.tables.paper_claims import claims as test_claims
    from lofit_lens.analysis.tables.paper_claims import spoken

    found = test_claims(open_study(folder), margin=margin / 100)
    report.add(spoken(found), claims=found.to_dict("records"))
