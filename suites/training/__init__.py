"""The trainer: steps, CUDA graphs, checkpoints."""
