"""Settings of the stage ``tokenizer``."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from commbert.settings.base import Section


class TokenizerSettings(Section):
    """How the base model's vocabulary grows."""

    mode: Literal["extend", "keep"] = "extend"
    """``extend``: add words of the code to the WordPiece vocabulary; ``keep``: leave it as it is."""
    max_new_words: Annotated[int, Field(ge=1, le=20_000)] = 1000
    """Entries added at most; the first 1,000 take most of the gain, 5,000 is the sensible maximum."""
    min_count: Annotated[int, Field(ge=1)] = 10
    """A new entry stands at least this often in the training split: a rarer row would hardly be trained."""
    min_files: Annotated[int, Field(ge=1)] = 2
    """A new entry stands in at least this many training files (keeps secrets and one-off names out)."""
    min_chars: Annotated[int, Field(ge=2, le=100)] = 3
    """Shortest new entry (characters)."""
    max_chars: Annotated[int, Field(ge=2, le=100)] = 40
    """Longest new entry (characters)."""

    @model_validator(mode="after")
    def _shortest_is_not_above_longest(self) -> Self:
        if self.min_chars > self.max_chars:
            raise ValueError(f"min_chars must not exceed max_chars, found {self.min_chars} and {self.max_chars}")
        return self
