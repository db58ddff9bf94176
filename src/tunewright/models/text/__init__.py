"""From texts and conversations to tokens."""
