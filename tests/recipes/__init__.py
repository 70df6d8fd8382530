"""One addition of each sort, as `CONTRIBUTING.md` says to make it; performed on a copy of the code."""
