"""What a learned offset does: tokens, directions, contributions to an answer, attention."""
