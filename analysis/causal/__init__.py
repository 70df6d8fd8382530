"""Whether a set of heads is causal: ablation, patching, and their curves over the number of heads."""
