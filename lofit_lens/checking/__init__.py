"""What a user wants to know of a model before work starts."""
