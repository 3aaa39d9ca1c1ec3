"""Training: the loop over one or several cells (trainer), a step, a cell's state, CUDA graphs, checkpoints."""
