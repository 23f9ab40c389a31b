"""What training reads, as flat arrays: windows, positive pairs with their negatives, words, known pairs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from commbert import tables
from commbert.errors import DataError
from commbert.known import Partners, contains, pair_keys, read_known
from commbert.nn.model import read_vocabulary
from commbert.rows import Rows, read_places, read_windows
from commbert.sentences import Documents, SentencePairs
from commbert.text.languages import KEYWORDS
from commbert.training.retrieval import Retrieval, choose_retrieval

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class PairData:
    """Positive pairs; pair i has the negatives ``negatives[i]``."""

    anchor: Ints
    positive: Ints
    negatives: Rows

    def __len__(self) -> int:
        return len(self.anchor)

    @classmethod
    def of(cls, anchor: Ints, positive: Ints) -> "PairData":
        """Return pairs without negatives of their own."""
        nothing = Rows.end_to_end(np.empty(0, np.int64), np.zeros(len(anchor) + 1, np.int64))
        return cls(anchor, positive, nothing)

    @classmethod
    def none(cls) -> "PairData":
        """Return no pairs."""
        return cls.of(np.empty(0, np.int64), np.empty(0, np.int64))

    @cached_property
    def pmi_weights(self) -> NDArray[np.float32]:
        """[n_pairs] positive pointwise mutual information of each pair, over its mean over the table.

        With N pairs in the table, c of them of these two words, and n(w) ends of pairs at word w, the probability of
        the pair is c / 2N in either direction and that of a word n(w) / 2N: PMI = ln(2 N c / (n(a) n(b))).

        Reference: Church and Hanks 1990, Computational Linguistics 16(1); Levy and Goldberg 2014, section 3.

        Raises:
            DataError: If no pair of the table says more than chance.
        """
        if not len(self):
            return np.empty(0, np.float32)
        _, pair, count = np.unique(pair_keys(self.anchor, self.positive), return_inverse=True, return_counts=True)
        ends = np.bincount(np.concatenate([self.anchor, self.positive])).astype(np.float64)
        pmi = np.log(2.0 * len(self) * count[pair]) - np.log(ends[self.anchor]) - np.log(ends[self.positive])
        positive = np.maximum(pmi, 0.0)
        mean = positive.mean()
        if not mean > 0:
            raise DataError("training.contrastive.pair_weights: expected pairs of a PMI above 0, found none. Use none.")
        return np.asarray(positive / mean, np.float32)


@dataclass(frozen=True)
class TrainingData:
    """Everything of the training split, and the validation rows that choose ``best/``."""

    windows: Rows
    pairs: PairData
    words: Rows
    """Token ids of each word, and behind all words those of each text."""
    known: NDArray[np.uint64]
    """Sorted keys (low id * 2^32 + high id) of pairs that share a training line, and of the pairs of texts."""
    validation_windows: list[Ints]
    validation_positive: tuple[Ints, Ints]
    validation_negative: tuple[Ints, Ints]
    validation_retrieval: Retrieval
    texts: PairData = field(default_factory=PairData.none)
    """Pairs of texts; their rows in ``words``."""
    documents: Documents | None = None
    """Which window follows which; None without NSP."""
    validation_sentences: tuple[Rows, SentencePairs] | None = None
    """Windows of the validation split, and pairs of them; None without NSP, or if there are none."""

    @cached_property
    def validation_is_novel(self) -> NDArray[np.bool_]:
        """Which of the validation positives share no training line."""
        return ~contains(self.known, pair_keys(*self.validation_positive))

    @cached_property
    def partners(self) -> Partners:
        """The known pairs, by word."""
        return Partners(self.known, len(self.words))


@dataclass(frozen=True)
class DataPaths:
    """The tables that training reads; of windows, the lists of their files."""

    windows: Path
    validation_windows: Path
    pairs: Path
    validation_pairs: Path
    known: Path
    words: Path
    texts: Path | None = None
    """Without it (and the next) no pairs of texts are read."""
    text_pairs: Path | None = None

    @property
    def given(self) -> list[Path]:
        """All tables that are read."""
        return [path for path in vars(self).values() if path is not None]


def read_words(path: Path, texts: Path | None = None) -> Rows:
    """Read the token ids of all words, and behind them those of texts if their table is given."""
    values, offsets = tables.list_values(tables.read(path, tables.WORDS, ["token_ids"])["token_ids"])
    if texts is not None:
        more, ends = tables.list_values(tables.read(texts, tables.TEXTS, ["token_ids"])["token_ids"])
        values, offsets = np.concatenate([values, more]), np.concatenate([offsets, offsets[-1] + ends[1:]])
    return Rows.end_to_end(values.astype(np.int64), offsets)


def _text_pairs(path: Path | None, n_words: int) -> PairData:
    """Read pairs of texts; text i is row ``n_words + i``."""
    if path is None:
        return PairData.none()
    table = tables.read(path, tables.TEXT_PAIRS, ["text_id_a", "text_id_b"])
    return PairData.of(*(n_words + column.to_numpy().astype(np.int64) for column in table.columns))


def read_training_data(
    paths: DataPaths,
    *,
    validation_windows: int,
    validation_pairs: int,
    validation_queries: int,
    validation_candidates: int,
    reads_sentences: bool = False,
    seed: int,
) -> TrainingData:
    """Read all tables; of the validation rows, evenly spaced ones; of the words to retrieve, drawn ones.

    With ``reads_sentences`` also which windows follow each other.

    Raises:
        DataError: If a table is damaged or there is nothing to train on.
    """
    windows = read_windows(paths.windows)
    if not len(windows):
        raise DataError(f"{paths.windows}: expected at least one window, found none.")
    heldout = read_windows(paths.validation_windows)
    pairs = tables.read(paths.validation_pairs, tables.PAIRS, ["word_id_a", "word_id_b", "label", "kind"])
    positive, negative = _matched_pairs(pairs, validation_pairs)
    known = read_known(paths.known)
    is_code = _candidate_words(paths.words)
    texts = _text_pairs(paths.text_pairs, len(is_code))
    # Their ids are above those of all words, and so are their keys.
    all_known = np.concatenate([known, np.unique(pair_keys(texts.anchor, texts.positive))])
    same_line = pairs.filter(pc.equal(pairs["label"], 1))
    retrieval = choose_retrieval(
        same_line["word_id_a"].to_numpy().astype(np.int64),
        same_line["word_id_b"].to_numpy().astype(np.int64),
        is_code,
        known,
        n_queries=validation_queries,
        n_candidates=validation_candidates,
        seed=seed,
    )
    return TrainingData(
        windows=windows,
        pairs=_pair_data(paths.pairs),
        words=read_words(paths.words, paths.texts),
        known=all_known,
        validation_windows=heldout.rows(evenly(len(heldout), validation_windows)),
        validation_positive=positive,
        validation_negative=negative,
        validation_retrieval=retrieval,
        texts=texts,
        documents=Documents.of(*read_places(paths.windows)) if reads_sentences else None,
        validation_sentences=_sentences(paths.validation_windows, heldout, validation_windows, seed)
        if reads_sentences
        else None,
    )


def _sentences(listed: Path, windows: Rows, wanted: int, seed: int) -> tuple[Rows, SentencePairs] | None:
    """Return ``wanted`` evenly spaced pairs of windows, of which always the same follow each other."""
    documents = Documents.of(*read_places(listed))
    if not documents.gives_pairs:
        return None
    first = documents.firsts[evenly(len(documents.firsts), wanted)]
    return windows, documents.pairs(first, np.zeros_like(first), seed=seed)


def _candidate_words(path: Path) -> NDArray[np.bool_]:
    """Return which words of the table can be found: those of the code but for keywords, as in the evaluation."""
    table = tables.read(path, tables.WORDS, ["word", "in_code"])
    is_keyword = pc.is_in(table["word"], value_set=pa.array(sorted(KEYWORDS)))
    return np.asarray(pc.and_not(table["in_code"], is_keyword).to_numpy())


def regular_ids(model_folder: Path, special: Sequence[int]) -> Ints:
    """Return the ids that may stand in for a hidden token: no special and no unused entry."""
    return np.array(
        sorted(i for t, i in read_vocabulary(model_folder).items() if i not in special and not t.startswith("[unused"))
    )


def evenly(n: int, wanted: int) -> Ints:
    """Return ``wanted`` evenly spaced row numbers of n, or all of them."""
    return np.unique(np.linspace(0, n - 1, min(n, wanted)).astype(np.int64)) if n else np.empty(0, np.int64)


def _pair_data(path: Path) -> PairData:
    table = tables.read(path, tables.PAIRS, ["word_id_a", "word_id_b", "label"])
    a, b = (table[c].to_numpy().astype(np.int64) for c in ("word_id_a", "word_id_b"))
    is_positive = table["label"].to_numpy() == 1
    first = np.flatnonzero(is_positive)
    group = np.cumsum(is_positive) - 1
    counts = np.bincount(group[~is_positive], minlength=len(first)) if len(first) else np.empty(0, np.int64)
    return PairData(a[first], b[first], Rows.end_to_end(b[~is_positive], np.concatenate([[0], np.cumsum(counts)])))


def _matched_pairs(table: pa.Table, wanted: int) -> tuple[tuple[Ints, Ints], tuple[Ints, Ints]]:
    """Return evenly spaced validation positives with their frequency-matched negatives."""
    a, b = (table[c].to_numpy().astype(np.int64) for c in ("word_id_a", "word_id_b"))
    kind = np.array(table["kind"].to_pylist(), dtype=object)
    group = np.cumsum(table["label"].to_numpy() == 1)
    negative = np.flatnonzero(kind == "frequency_matched")
    first_of_group = np.flatnonzero(kind == "same_line")
    positive = first_of_group[group[negative] - 1]
    chosen = evenly(len(negative), wanted)
    p, n = positive[chosen], negative[chosen]
    return (a[p], b[p]), (a[n], b[n])
