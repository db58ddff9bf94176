"""What comes before the first update: rows read, encoded and kept, and what a run will take."""
