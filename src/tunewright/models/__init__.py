"""Architectures from Hugging Face, run packed; folders read and written safely. It knows no task."""
