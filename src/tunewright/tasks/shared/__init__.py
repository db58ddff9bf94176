"""What tasks share: texts, labels, windows, rankings, conversations, the parts of a multi-task."""
