"""The network and what stands around it: loading, growing and saving, vectors, losses, collectives, counters."""
