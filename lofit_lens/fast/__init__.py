"""Work that need not be done: every fast path, behind one door, `in_force.in_force`."""
