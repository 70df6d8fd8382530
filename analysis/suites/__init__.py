"""Published suites of other tools, run under an edit."""
