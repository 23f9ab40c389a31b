"""Settings of the stage ``explore``: the page of neighbours, the exported vectors and the map."""

from typing import Annotated

from pydantic import Field, model_validator

from commbert.settings.base import Section, Seed

MOST_KEPT = 1_200_000
"""Words times neighbours: 16/3 characters of the page each under two models together are 12.8 MB."""


class ExploreSettings(Section):
    """What is shown of a run's word vectors."""

    words: Annotated[int, Field(ge=10, le=50_000)] = 20_000
    """Words of the code that are no keywords, the most frequent ones; less where the code has less."""
    neighbours: Annotated[int, Field(ge=1, le=100)] = 30
    """Nearest words that the page keeps of each word, under the base model and under the run."""
    map_words: Annotated[int, Field(ge=5, le=5000)] = 1500
    """Words on the map: the telling ones (``evaluation.telling_words``), then the most frequent ones."""
    seed: Seed = 17
    """Of the map's layout."""

    @model_validator(mode="after")
    def _page_stays_small(self) -> "ExploreSettings":
        if self.words * self.neighbours > MOST_KEPT:
            raise ValueError(
                f"words times neighbours must not exceed {MOST_KEPT}, or the page passes 20 MB, "
                f"found {self.words} and {self.neighbours}"
            )
        return self
