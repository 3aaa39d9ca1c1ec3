"""Triton kernels of everything around scan and attention: what they compute is defined by plain PyTorch beside them."""
