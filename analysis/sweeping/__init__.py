"""The same comparison at several numbers of training examples, or of heads (Figures 4 and 5)."""
