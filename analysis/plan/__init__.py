"""Studies: many experiments described in one file, planned, run, watched and done again."""
