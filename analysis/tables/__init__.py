"""The tables of a comparison: as a frame, for a terminal, in Markdown, HTML and LaTeX."""
