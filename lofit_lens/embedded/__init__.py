"""The small language model that comes with the package, its tasks, and the recipe that made it."""
