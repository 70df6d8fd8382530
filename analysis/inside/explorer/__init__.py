"""Head cards: everything known of one head, as a record, as HTML and in the explorer of Jupyter."""
