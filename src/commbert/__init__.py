"""Domain embeddings from telecom source code: data, training, evaluation, report.

Nothing is imported here, so that ``import commbert`` costs nothing in a workflow's dry run.
"""

__version__ = "0.1.0"
