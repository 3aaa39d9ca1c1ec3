"""What operators share: how they are registered and dispatched, precision, and parts of kernels."""
