"""Going on with a run to the same bits, and trying whether it does."""
