"""Everything done with LoFiT: comparisons, figures, reports and the command line."""

if __name__ == "analysis":
    raise ImportError(
        "Import `lofit_lens.analysis`; the folder `analysis/` is installed inside the package."
    )
