"""Training: data, plan of batches, one step, the loop, checkpoints, and the launch of processes."""
