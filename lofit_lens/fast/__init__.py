"""Work that need not be done: every fast path, and the switches that turn them off."""
