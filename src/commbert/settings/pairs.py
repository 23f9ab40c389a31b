"""Settings of the stage ``pairs``."""

from typing import Annotated

from pydantic import Field

from commbert.settings.base import Section, Seed


class PairsSettings(Section):
    """Word pairs of one line (positive) and of no line (negative)."""

    max_words_per_line: Annotated[int, Field(ge=2, le=4096)] = 64
    """Distinct words of one line that form pairs; of a longer line this many are drawn. 64 touches 4 lines of 650k."""
    max_positives: Annotated[int, Field(ge=1)] | None = 200_000
    """Positive pairs of the training split, drawn evenly over the whole corpus; null = all."""
    subsample: Annotated[float, Field(gt=0.0, le=1.0)] | None = 1.0e-2
    """Frequent words are dropped from lines with probability 1 - sqrt(subsample / f), f = the word's share of all
    words (Mikolov et al. 2013, arXiv:1310.4546, eq. 5); null = keep all (the reference method)."""
    drop_keywords: bool = True
    """Leave out the keywords of the programming languages (``for``, ``int``, ``self``)."""
    english_negatives: Annotated[int, Field(ge=0, le=16)] = 1
    """English words per positive pair, none of which ever shares a line with the anchor."""
    code_negatives: Annotated[int, Field(ge=0, le=16)] = 0
    """Words of the code per training pair, none of which ever shares a training line with the anchor, drawn in
    proportion to their training lines to the power 0.75 (Mikolov et al. 2013, arXiv:1310.4546, section 2.2)."""
    lexical_negatives: Annotated[int, Field(ge=0, le=16)] = 0
    """Words of the code per training pair that share a sub-word with the anchor (``pusch_config``, ``pusch_symbols``)
    and never a training line; fewer where there are none."""
    heldout_positives: Annotated[int, Field(ge=10)] = 4000
    """Positive pairs per held-out split; each gets one negative of each kind."""
    seed: Seed = 17
    """Draws pairs and negatives."""
