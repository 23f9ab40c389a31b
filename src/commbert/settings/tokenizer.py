"""Settings of the stage ``tokenizer``."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from commbert.settings.base import Section


class TokenizerSettings(Section):
    """Where the vocabulary comes from: the base model's, grown or as it is, or one learnt from the corpus."""

    mode: Literal["extend", "keep", "train"] = "extend"
    """``extend``: add words of the code to the base model's WordPiece vocabulary; ``keep``: leave it as it is;
    ``train``: learn one from the training split, for a model that is drawn anew (``model.base.kind: scratch``)."""
    vocabulary_size: Annotated[int, Field(ge=200, le=200_000)] = 30_522
    """``train``: entries at most, special ones and characters among them; a small corpus gives fewer. The default is
    BERT's (Devlin et al. 2019)."""
    min_frequency: Annotated[int, Field(ge=1)] = 2
    """``train``: two pieces that stand side by side less often than this stay two, and a character that stands less
    often has no entry: its words become [UNK]. Printable ASCII always has entries."""
    max_characters: Annotated[int, Field(ge=1, le=100_000)] = 8000
    """``train``: characters with entries of their own at most, the most frequent ones: for scripts with thousands."""
    lower_case: bool = True
    """``train``: letters lose case and accents, as in BERT's uncased models; false = as they stand. Chinese characters
    stand alone either way, and the words of pairs, vectors and evaluation are in lower case either way. The other modes
    do as the base model does."""
    max_new_words: Annotated[int, Field(ge=1, le=20_000)] = 1000
    """``extend``, as all below: entries added at most; the first 1,000 take most of the gain, 5,000 is the sensible
    maximum."""
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
