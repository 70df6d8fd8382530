"""Everything done with LoFiT: comparisons, figures, reports and the command line."""

if __name__ == "analysis":
    raise ImportError(
        "Import `lofit_lens.analysis`; the folder `analysis/` is installed inside the package."
    )

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
