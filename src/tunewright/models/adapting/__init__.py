"""Adapters: a few new weights that learn while a model's own stay as they are."""
