"""What networks and kernels cost: time, memory, multiply-adds."""
