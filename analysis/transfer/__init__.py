"""Cross-task transfer of heads (Figure 2): the runs, the matrix they make, and its folder."""
