"""The inside of models: attention, dropout, embeddings, and faster forms of their layers."""
