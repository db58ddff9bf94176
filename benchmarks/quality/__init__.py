"""Quality on real data sets, beside the libraries that users know."""
