"""Discovery: which modules and methods of a model are its stages, found from its structure without running it."""
