"""Memory Sparse Attention in PyTorch: reference, training model and data."""
