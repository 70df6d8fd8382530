"""The demo: the paper's questions on the embedded model."""
