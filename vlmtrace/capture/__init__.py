"""How it is measured: the only folder that imports torch or transformers."""
