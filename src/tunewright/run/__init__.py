"""Train, evaluate and predict as one call each. Importing this package does not import torch."""
