"""Methods of a comparison: what they share, how each is put together, their names."""
