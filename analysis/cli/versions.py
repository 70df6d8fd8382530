"""The command `versions`."""

from __future__ import annotations

from lofit_lens.analysis.cli.console import Report
from lofit_lens.analysis.cli.groups import with_options


@with_options
def versions(*, report: Report) -> None:
    """Versions of Python and of the libraries that numbers depend on, for a bug report."""
    from lofit_lens.provenance import library_versions, show_versions

    report.add(show_versions(), **library_versions())
