"""Kinds of experiments: each its plan, its result and its sentences."""
