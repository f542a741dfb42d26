"""The training engine: `loop` is plain PyTorch, `worker` the one seam, `launch` runs it here or on Ray."""
