"""How often a model's choices are right, domain by domain, beside chance and the choice without the question."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from commbert.evaluation.bootstrap import Estimate, estimate, mean_resamples
from commbert.inference.choosing import Choice
from commbert.inference.questions import LETTERS, Question

Floats = NDArray[np.float64]
ALL = "all"


@dataclass(frozen=True)
class Answered:
    """A question that was asked, with what was chosen."""

    question: Question
    choice: Choice

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-ready fields."""
        q = self.question
        return {
            "line": q.line,
            "question": q.text,
            "domain": q.domain,
            "answer": None if q.answer is None else LETTERS[q.answer],
            "chosen": LETTERS[self.choice.chosen],
            "chosen_blindly": LETTERS[self.choice.chosen_blindly],
            "options": [vars(option) for option in self.choice.options],
        }


@dataclass(frozen=True)
class Accuracy:
    """The figures of one domain."""

    domain: str
    n: int
    accuracy: Estimate
    """With Wilson's interval."""
    blind: Estimate
    """Without the question; with Wilson's interval."""
    difference: Estimate
    """What the question adds: a paired bootstrap over the questions."""
    chance: float
    """Mean of 1 / options."""

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-ready fields."""
        return {k: v.as_dict() if isinstance(v, Estimate) else v for k, v in vars(self).items()}


def wilson(n_right: int, n: int) -> Estimate:
    """Return a share with its 95 % interval by Wilson's score (Wilson 1927, doi:10.1080/01621459.1927.10502953)."""
    interval = binomtest(n_right, n).proportion_ci(0.95, method="wilson")
    return Estimate(n_right / n, float(interval.low), float(interval.high), n)


def sorted_out(questions: Sequence[Question], choices: Sequence[Choice | str]) -> tuple[list[Answered], dict[int, str]]:
    """Return the questions that were answered, and line and reason of those that this model cannot be asked."""
    both = list(zip(questions, choices, strict=True))
    answered = [Answered(q, c) for q, c in both if not isinstance(c, str)]
    return answered, {q.line: c for q, c in both if isinstance(c, str)}


def right(answered: Sequence[Answered], *, is_blind: bool = False) -> Floats:
    """Return [n] 1 where the chosen option is the answer, else 0; all must have an answer."""
    chosen = [a.choice.chosen_blindly if is_blind else a.choice.chosen for a in answered]
    return np.array([c == a.question.answer for c, a in zip(chosen, answered, strict=True)], np.float64)


def accuracies(answered: Sequence[Answered], *, n_resamples: int, seed: int) -> list[Accuracy]:
    """Return the accuracy of all questions that have an answer and, where there are several, of each domain."""
    known = [a for a in answered if a.question.answer is not None]
    return [
        _accuracy(domain, [known[i] for i in rows], n_resamples=n_resamples, seed=seed)
        for domain, rows in by_domain([a.question for a in known])
    ]


def by_domain(questions: Sequence[Question]) -> Iterator[tuple[str, list[int]]]:
    """Yield all questions and, if there are several domains, those of each, in order of their first question."""
    if questions:
        yield ALL, list(range(len(questions)))
    yield from _several([q.domain for q in questions])


def by_split(questions: Sequence[Question]) -> Iterator[tuple[str, list[int]]]:
    """Yield the questions of each split, in order of their first question, if the file names several."""
    yield from _several([q.split for q in questions])


def _several(names: Sequence[str]) -> Iterator[tuple[str, list[int]]]:
    """Yield the rows of each name, in order of its first row, if there are several names."""
    rows: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        rows.setdefault(name, []).append(i)
    if len(rows) > 1:
        yield from ((name or "(none)", found) for name, found in rows.items())


def _accuracy(domain: str, answered: Sequence[Answered], *, n_resamples: int, seed: int) -> Accuracy:
    seen, blind = right(answered), right(answered, is_blind=True)
    n = len(answered)
    draws = mean_resamples(seen - blind, np.arange(n), weights=None, n_resamples=n_resamples, seed=seed)
    return Accuracy(
        domain=domain,
        n=n,
        accuracy=wilson(int(seen.sum()), n),
        blind=wilson(int(blind.sum()), n),
        difference=estimate(float((seen - blind).mean()), draws, n),
        chance=float(np.mean([1 / len(a.question.options) for a in answered])),
    )
