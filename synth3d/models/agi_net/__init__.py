"""AGI-Net: cross-group attention and group-wise rolled kernels."""
