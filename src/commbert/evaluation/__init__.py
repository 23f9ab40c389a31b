"""What a model knows, measured on held-out directories, with intervals and controls."""
