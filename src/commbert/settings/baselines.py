"""Settings of the stage ``baseline``."""

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from commbert.settings.base import Section, Seed


class BaselineKind(StrEnum):
    """What the vectors of a baseline are made from."""

    PPMI_SVD = "ppmi_svd"
    """The lines that words share."""
    CHAR_NGRAMS = "char_ngrams"
    """Their spelling."""


class BaselinesSettings(Section):
    """Word vectors without a language model, that the model is measured against."""

    dims: Annotated[int, Field(ge=1, le=1024)] = 256
    """Length of the vectors; less where the words give less."""
    context_smoothing: Annotated[float, Field(gt=0.0, le=1.0)] = 0.75
    """Power of the contexts' counts in PPMI; 1 = none (Levy, Goldberg & Dagan 2015, doi:10.1162/tacl_a_00134)."""
    shift: Annotated[float, Field(ge=1.0, le=100.0)] = 1.0
    """k of shifted PPMI, whose logarithm is taken off every value; 1 = none, 5 and 15 are usual too (same source)."""
    min_gram: Annotated[int, Field(ge=1, le=10)] = 2
    """Shortest character n-gram (characters; the edges of a word count as one)."""
    max_gram: Annotated[int, Field(ge=1, le=10)] = 5
    """Longest character n-gram (characters)."""
    max_ngrams: Annotated[int, Field(ge=100, le=10_000_000)] = 200_000
    """Character n-grams kept, the most frequent of the training words; bounds memory: each takes ``dims`` numbers."""
    seed: Seed = 17
    """Draws the start vectors of the decompositions; changes no figure."""

    @model_validator(mode="after")
    def _shortest_is_not_above_longest(self) -> Self:
        if self.min_gram > self.max_gram:
            raise ValueError(f"min_gram must not exceed max_gram, found {self.min_gram} and {self.max_gram}")
        return self
