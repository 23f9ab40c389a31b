"""What a fine-tuned model is measured against: the most frequent class, and a bag of tokens without word order."""

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.linear_model import LogisticRegression, Ridge

from commbert.finetuning.examples import Examples

MAX_ROWS = 20_000
"""Training rows that the bag of tokens reads at most, drawn with the seed: it must not take longer than the model."""


def majority(train: Examples, test: Examples, *, is_scoring: bool) -> NDArray[np.float64] | NDArray[np.int64]:
    """Return what a rule that reads no text says of the test rows: the most frequent class, or the mean score."""
    if is_scoring:
        return np.full(len(test), train.target.mean())
    return np.full(len(test), np.bincount(train.target).argmax())


def bag_of_tokens(
    train: Examples, test: Examples, *, n_tokens: int, is_scoring: bool, seed: int
) -> NDArray[np.float64] | NDArray[np.int64]:
    """Return what TF-IDF of single tokens says of the test rows: by logistic regression, for scores ridge regression.

    Args:
        train: What it learns from; of more rows than ``MAX_ROWS`` a sample.
        test: What it is asked.
        n_tokens: Size of the vocabulary.
        is_scoring: Whether targets are scores.
        seed: Draws the sample.
    """
    rows = np.arange(len(train))
    if len(rows) > MAX_ROWS:
        rows = np.sort(np.random.default_rng([seed, 14]).choice(len(train), MAX_ROWS, replace=False))
    weigh = TfidfTransformer(sublinear_tf=True)
    features = weigh.fit_transform(_counts(train, rows, n_tokens))
    learner = Ridge(alpha=1.0) if is_scoring else LogisticRegression(C=10.0, max_iter=1000)
    learner.fit(features, train.target[rows])
    return np.asarray(learner.predict(weigh.transform(_counts(test, np.arange(len(test)), n_tokens))))


def _counts(examples: Examples, rows: NDArray[np.int64], n_tokens: int) -> sp.csr_matrix:
    chosen = examples.row[rows]
    offsets = np.concatenate([[0], np.cumsum(examples.tokens.lengths(chosen))])
    ids = examples.tokens.joined(chosen)
    counts = sp.csr_matrix((np.ones(len(ids)), ids, offsets), shape=(len(rows), n_tokens))
    counts.sum_duplicates()
    return counts
