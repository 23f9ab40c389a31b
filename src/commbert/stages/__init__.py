"""One module per stage: read files, compute, write files, return a summary. No stage knows who calls it."""
