"""Settings of the stage ``texts``."""

from typing import Annotated

from pydantic import Field

from commbert.settings.base import Section, Seed


class TextsSettings(Section):
    """Pairs of texts of the training files that mean the same; ``training.batch_texts`` says how many a step reads."""

    briefs: bool = True
    """What a function's comment says first, and its code (Husain et al. 2019, arXiv:1909.09436)."""
    acronyms: bool = True
    """An acronym, and what a comment says that it stands for: ``HARQ (hybrid automatic repeat request)``."""
    hide_names: bool = False
    """A function's name is ``f`` in its own code: it mostly says what the brief says."""
    max_tokens: Annotated[int, Field(ge=8, le=510)] = 96
    """Tokens of a text without [CLS] and [SEP]; longer ones are cut."""
    max_pairs: Annotated[int, Field(ge=1)] | None = 200_000
    """Pairs of functions and briefs, drawn evenly over the whole corpus; null = all."""
    seed: Seed = 17
    """Draws the pairs."""
