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
    text_tokens: Annotated[int, Field(ge=8, le=512)] = 256
    """Tokens of a text with [CLS] and [SEP], at most: functions are cut there, as sentence-transformers cuts."""
    briefs: Annotated[int, Field(ge=2)] = 500
    """Functions whose brief is looked for among their code, at most."""
    terms: str = "resources/evaluation/terms_3gpp.csv"
    """CSV table of acronyms and expansions; this and the next four: paths from the folder of the workflow."""
    opposites: str = "resources/evaluation/opposites.csv"
    """CSV table of parts of identifiers that are opposites."""
    similarity: str = "resources/evaluation/general_similarity.csv"
    """CSV table of pairs of general English with graded relation."""
    general_text: str = "resources/evaluation/general_text.txt"
    """Sentences of general English, one a line."""
    questions: str | None = "resources/evaluation/questions_5g.csv"
    """Multiple-choice questions (question, A.. or option_1.., answer, domain) that a run and the model it started
    from are compared on; null = no comparison."""
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

    def of_figures(self) -> "EvaluationSettings":
        """Return what the figures of one model depend on: they ask no questions."""
        return self.model_copy(update={"questions": None})
