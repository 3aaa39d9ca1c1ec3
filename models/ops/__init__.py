"""Operators of the networks: each a folder with the function, its definition in PyTorch and its kernels."""
