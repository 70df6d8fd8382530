"""One HTML page of a finished study, which opens without a server or a network."""
