"""Settings of the stage ``words``."""

from typing import Annotated, Literal, Self

import regex
from pydantic import Field, field_validator, model_validator

from commbert.settings.base import Section


class WordsSettings(Section):
    """What counts as a word of the code."""

    pattern: str = r"\b[a-zA-Z_][a-zA-Z0-9_]*\b"
    """Regular expression of a word (the reference method's)."""
    min_chars: Annotated[int, Field(ge=1, le=100)] = 2
    """Shorter words are left out: single letters say nothing."""
    max_chars: Annotated[int, Field(ge=1, le=100)] = 100
    """Longer words are left out: BERT's tokenizer turns them into one [UNK]."""
    text: Literal["code", "all"] = "code"
    """``code``: comments and docstrings removed first; ``all``: the line as it stands (the reference method)."""
    english_words: Annotated[int, Field(ge=100, le=100_000)] = 10_000
    """How many of the most common English words serve as English negatives and in the receipts."""

    @field_validator("pattern")
    @classmethod
    def _pattern_compiles(cls, value: str) -> str:
        try:
            regex.compile(value)
        except regex.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return value

    @model_validator(mode="after")
    def _shortest_is_not_above_longest(self) -> Self:
        if self.min_chars > self.max_chars:
            raise ValueError(f"min_chars must not exceed max_chars, found {self.min_chars} and {self.max_chars}")
        return self
