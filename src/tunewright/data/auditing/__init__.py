"""What is looked at before a model does."""
