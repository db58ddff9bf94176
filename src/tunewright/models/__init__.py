"""Architectures from Hugging Face, run packed, read and written safely. It knows no task."""
