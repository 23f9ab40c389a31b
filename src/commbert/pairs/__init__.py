"""Word pairs: positives of one line, negatives of several kinds, and the set of all known positives."""
