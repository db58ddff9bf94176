"""Models on the disk: configurations, weights, and folders that are whole or absent."""
