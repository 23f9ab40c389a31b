"""Asking a model: what stands at [MASK], how alike two words are, which option fits, which class a text has."""
