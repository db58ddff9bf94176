"""The forms that data come in: files, folders, frames, and data sets of the Hub."""
