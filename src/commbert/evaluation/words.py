"""The words of an evaluation and the space that a model, a baseline or a rule puts them into."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from commbert import tables
from commbert.nn.measures import cosines
from commbert.text.languages import KEYWORDS

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Words:
    """The table tokenizer/words; word i has id i, those of the code come first."""

    text: list[str]
    n_lines: Floats
    """Training lines of each word."""
    usable: NDArray[np.bool_]
    """No keyword of a programming language."""
    n_code: int

    @property
    def candidates(self) -> Ints:
        """Ids of the words that are ranked: those of the code that are no keywords."""
        return np.flatnonzero(self.usable[: self.n_code])


def read_evaluated_words(path: Path) -> Words:
    """Read the table tokenizer/words."""
    table = tables.read(path, tables.WORDS, ["word", "n_lines", "in_code"])
    text = table["word"].to_pylist()
    return Words(
        text=text,
        n_lines=table["n_lines"].to_numpy().astype(np.float64),
        usable=np.array([w not in KEYWORDS for w in text], np.bool_),
        n_code=int(table["in_code"].to_numpy(zero_copy_only=False).sum()),
    )


@dataclass(frozen=True)
class Space:
    """Words with their vectors; ``vectors[row_of[i]]`` is that of word i."""

    words: Words
    vectors: Tensor
    """[n, h] float32, of length 1, or 0 for a word that nothing is known of."""
    row_of: Ints
    """[n_words] -1 for words that take no part."""

    def score(self, first: Ints, second: Ints) -> Floats:
        """Return how near the words of each pair are: their cosine."""
        return cosines(self.vectors, self.row_of[first], self.row_of[second])

    def vectors_of(self, word_ids: Ints) -> Tensor:
        """Return [n, h] the vectors of words."""
        return self.vectors[torch.from_numpy(self.row_of[word_ids])]

    def popularity(self, anchors: Ints) -> Floats:
        """Return [n_words] the cosine of each word to the mean of the anchors, which is the same for every anchor."""
        mean = self.vectors_of(anchors).double().mean(0)
        values = (self.vectors.double() @ mean).numpy()
        out = np.zeros(len(self.row_of))
        out[self.row_of >= 0] = values[self.row_of[self.row_of >= 0]]
        return out

    def all_vectors(self) -> NDArray[np.float32]:
        """Return [n_words, h] for rules that are fitted; rows of words that take no part are 0."""
        out = np.zeros((len(self.row_of), self.vectors.shape[1]), np.float32)
        there = self.row_of >= 0
        out[there] = self.vectors.numpy()[self.row_of[there]]
        return out


class ByFrequency(Space):
    """The space of the rule that knows nothing but how frequent a word is: the second word's lines are its score."""

    def __init__(self, words: Words) -> None:
        every = np.arange(len(words.text))
        # Ranked by cosine, one positive number each gives everyone the same list, most frequent words first.
        super().__init__(words, torch.from_numpy(words.n_lines.astype(np.float32) + 1)[:, None], every)

    def score(self, first: Ints, second: Ints) -> Floats:  # noqa: ARG002 - the rule is blind to it
        """Return the second word's number of training lines."""
        return self.words.n_lines[second]


def space_of_vectors(words: Words, vectors: Tensor, word_ids: Ints) -> Space:
    """Return the space of vectors of some words."""
    row_of = np.full(len(words.text), -1, np.int64)
    row_of[word_ids] = np.arange(len(word_ids))
    return Space(words, vectors, row_of)


def words_needed(words: Words, *others: Sequence[int] | Ints) -> Ints:
    """Return the ids of all words of the code and of further ones, each once, ascending."""
    return np.unique(np.concatenate([np.arange(words.n_code), *others]).astype(np.int64))


def telling_words(words: Words, asked: Sequence[str]) -> list[str]:
    """Return those of the asked words that the code has and that are no keywords.

    Where there are none: the twelve most frequent words of training that are made of several parts (``mcs_index``), or,
    where there are no such either (text is no code), the twelve most frequent ones.
    """
    candidates = {words.text[i] for i in words.candidates}
    fit = [words.text[i] for i in words.candidates if words.n_lines[i] > 0]
    compound = [w for w in fit if "_" in w.strip("_") and w[0] != "_"]
    return [w for w in asked if w in candidates] or (compound or fit)[:12]
