"""Functions of a report: terminal table, Markdown."""
