"""Results of comparing methods: runs, the frame they make, tables, and the folder they lie in."""
