"""The rivals of LoFiT: other edits, other ways to choose heads, other ways to tune."""
