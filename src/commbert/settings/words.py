"""Settings of the stage ``words``."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from commbert.settings.base import Section


class WordSettings(Section):
    """What counts as a word of the code."""

    pattern: str = r"\b[a-zA-Z_][a-zA-Z0-9_]*\b"
    """Regular expression of a word (the reference method's), in the syntax of Rust's regex crate. For every script:
    ``[\\p{L}_][\\p{L}\\p{M}\\p{N}_]*``; where words are not divided by spaces, each Chinese character a word (and
    ``min_chars`` 1): ``\\p{Han}|[[\\p{L}_]--\\p{Han}][[\\p{L}\\p{M}\\p{N}_]--\\p{Han}]*``."""
    min_chars: Annotated[int, Field(ge=1, le=100)] = 2
    """Shorter words are left out: single letters say nothing."""
    max_chars: Annotated[int, Field(ge=1, le=100)] = 100
    """Longer words are left out: BERT's tokenizer turns them into one [UNK]."""
    text: Literal["code", "all"] = "code"
    """``code``: comments and docstrings removed first; ``all``: the line as it stands (the reference method)."""

    @field_validator("pattern")
    @classmethod
    def _pattern_compiles(cls, value: str) -> str:
        if value == cls.model_fields["pattern"].default:
            return value
        import polars as pl  # noqa: PLC0415  (training checks its settings on machines without it)

        try:
            pl.Series([""]).str.extract_all(value)
        except pl.exceptions.ComputeError as error:
            raise ValueError(f"not a regular expression: {str(error).splitlines()[-1]}") from error
        return value

    @model_validator(mode="after")
    def _shortest_is_not_above_longest(self) -> Self:
        if self.min_chars > self.max_chars:
            raise ValueError(f"min_chars must not exceed max_chars, found {self.min_chars} and {self.max_chars}")
        return self


class WordsSettings(WordSettings):
    """The words of the code, and the English words that they are told from."""

    english_words: Annotated[int, Field(ge=100, le=100_000)] = 10_000
    """How many of the most common English words serve as English negatives and in the receipts."""

    def of_lines(self) -> WordSettings:
        """Return what finding the words of a line depends on."""
        return WordSettings(**{name: getattr(self, name) for name in WordSettings.model_fields})
