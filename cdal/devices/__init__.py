"""What depends on where a network computes: precision, kernels, CUDA graphs, workers."""
