"""Data that are too large for memory, and files that are too large to be waited for."""
