"""What a model is worth: its figures, how it compares, whether it is still the same."""
