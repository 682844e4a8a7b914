"""The command line: thin commands and the one error boundary."""
