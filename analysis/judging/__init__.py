"""Answers in free text, read by judges."""
