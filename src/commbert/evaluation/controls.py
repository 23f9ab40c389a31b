"""Rules that never see the first word: on a hard rung they must be right half of the time, or the set is broken."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from commbert.nn.measures import auc

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

HARD_RUNGS = ("frequency_matched", "lexical")
_TOLERANCE = 0.03
_FEWEST = 50
"""Pairs; of fewer the controls are noise."""
_FOLDS = 5


@dataclass(frozen=True)
class Controls:
    """AUC of three rules on one rung; None without pairs."""

    blind: float | None
    """Cosine of the second word to the mean of all first words."""
    classifier: float | None
    """A logistic regression on the second word's vector, on words that it was not fitted on."""
    frequency: float | None
    """The second word's number of training lines."""
    n: int

    def problems(self, rung: str) -> Iterator[str]:
        """Yield what is wrong with a rung that is to be hard."""
        if rung not in HARD_RUNGS or self.n < _FEWEST:
            return
        for name in ("blind", "classifier", "frequency"):
            value = getattr(self, name)
            if value is not None and abs(value - 0.5) > _TOLERANCE:
                yield (
                    f"rung {rung}: a rule that never sees the first word ({name}) reaches an AUC of {value:.3f}, "
                    f"expected 0.5 +- {_TOLERANCE}: the held-out pairs give themselves away"
                )


def controls(
    positive: Ints, negative: Ints, *, popularity: Floats, vectors: NDArray[np.float32] | None, n_lines: Floats
) -> Controls:
    """Measure the rules on one rung.

    Args:
        positive: [n] second words of the positives.
        negative: [n] second words of the negatives.
        popularity: [n_words] score of a second word by the blind rule.
        vectors: [n_words, h] what the classifier sees; None: no classifier.
        n_lines: [n_words] training lines of each word.
    """
    if not len(positive):
        return Controls(None, None, None, 0)
    return Controls(
        blind=auc(popularity[positive], popularity[negative]),
        classifier=None if vectors is None else _classifier_auc(vectors, positive, negative),
        frequency=auc(n_lines[positive], n_lines[negative]),
        n=len(positive),
    )


def _classifier_auc(vectors: NDArray[np.float32], positive: Ints, negative: Ints) -> float | None:
    """Return the cross-validated AUC, a word's rows all in one fold: whoever knows the word knows its label."""
    words = np.concatenate([positive, negative])
    labels = np.repeat([1, 0], [len(positive), len(negative)])
    if len(np.unique(words)) < 2 * _FOLDS:
        return None
    score = np.empty(len(words))
    for fit, held in GroupKFold(_FOLDS).split(words, labels, words):
        if len(np.unique(labels[fit])) < 2:
            return None
        model = LogisticRegression(max_iter=200, C=1.0).fit(vectors[words[fit]], labels[fit])
        score[held] = model.decision_function(vectors[words[held]])
    return auc(score[labels == 1], score[labels == 0])


def problems(found: Mapping[str, Controls]) -> list[str]:
    """Return what is wrong with the rungs."""
    return [line for rung, of_rung in found.items() for line in of_rung.problems(rung)]
