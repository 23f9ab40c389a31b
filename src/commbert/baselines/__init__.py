"""Word vectors without a language model."""
