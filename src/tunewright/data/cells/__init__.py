"""What one cell may hold: lists, marked texts, tags, choices, conversations, pictures."""
