"""Tiny models with random weights of every type that transformers knows to take images and text and to generate."""
