"""A Summary as text: terminal table, JSON, Markdown."""
