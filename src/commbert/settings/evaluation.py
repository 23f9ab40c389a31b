"""Settings of the stage ``evaluate``."""

from typing import Annotated

from pydantic import Field

from commbert.settings.base import Section, Seed


class EvaluationSettings(Section):
    """What is measured on the held-out test split."""

    windows: Annotated[int, Field(ge=1)] = 600
    """Windows for the MLM figures, drawn evenly; 15 % of their tokens are hidden, always by [MASK]."""
    retrieval_queries: Annotated[int, Field(ge=1)] = 1000
    """Words whose same-line partners are looked for among all words of the corpus."""
    random_pairs: Annotated[int, Field(ge=10)] = 20_000
    """Random word pairs for the mean cosine."""
    bootstrap: Annotated[int, Field(ge=100, le=100_000)] = 1000
    """Resamples for the 95 % intervals, by anchor word for pairs, by word for retrieval, by window for MLM."""
    telling_words: tuple[str, ...] = ()
    """Words whose nearest neighbours are kept; empty = the most frequent words of the code that English lacks."""
    neighbours: Annotated[int, Field(ge=1, le=100)] = 8
    """Neighbours of each telling word."""
    seed: Seed = 17
    """Draws samples, masks and resamples."""
