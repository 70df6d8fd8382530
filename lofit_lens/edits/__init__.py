"""Edits of a model: what one is, their base, those of heads and of the residual stream, their files."""
