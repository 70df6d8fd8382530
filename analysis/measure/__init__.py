"""What is measured beside a score, and what is checked before one counts."""
