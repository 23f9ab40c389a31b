"""Multiple choice by a masked language model: the option whose pieces it holds most likely in their place.

The score of an option is its pseudo-log-likelihood (Salazar et al. 2020, arXiv:1910.14659, equation 1, summed over the
option's pieces alone): each piece is hidden in turn, and its logarithmic probability given all else is taken. By that
alone a word of several pieces is too likely: its other pieces give the hidden one away. ``word-l2r`` therefore hides
the pieces to the right within the same word too (Kauf & Ivanova 2023, arXiv:2305.10588, section 3, PLL-word-l2r), which
is the chain rule within the word. The mean over the pieces, not the sum, is compared, else the shortest option wins.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from commbert.errors import DataError
from commbert.inference.hidden import hidden_tokens
from commbert.inference.models import AskedModel
from commbert.inference.questions import Question, option_problem

Scoring = Literal["word-l2r", "plain"]
SCORINGS: tuple[Scoring, ...] = ("word-l2r", "plain")
# Within a name, underscores are the name's own; Chinese is written without spaces.
_SLOT = re.compile(r"\[MASK\]|(?<![A-Za-z0-9_])_{3,}(?![A-Za-z0-9_])")
_QUESTIONS_AT_ONCE = 128

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class OptionScore:
    """One option of a question."""

    option: str
    score: float
    """Mean logarithmic probability of its pieces, in nats; calibrated: less that without the question."""
    probability: float
    """Softmax of the scores over the question's options."""
    n_pieces: int


@dataclass(frozen=True)
class Choice:
    """The options of one question, scored with it and without it."""

    options: list[OptionScore]
    blind: list[OptionScore]
    """Scored without the question, never calibrated: what the options alone give away."""

    @property
    def chosen(self) -> int:
        """Place of the likeliest option."""
        return _best(self.options)

    @property
    def chosen_blindly(self) -> int:
        """Place of the likeliest option where the question is not seen."""
        return _best(self.blind)


class _Filled(NamedTuple):
    """A text with an option in it."""

    ids: Ints
    first: int
    """Place of the option's first piece."""
    word: Ints
    """[pieces] number of the word that each piece of the option belongs to."""


def choose(
    model: AskedModel,
    question: str,
    options: Sequence[str],
    *,
    scoring: Scoring = "word-l2r",
    is_calibrated: bool = False,
    is_blind: bool = False,
) -> list[OptionScore]:
    """Score the options of a question; the order is that of the options.

    Args:
        model: Has a trained MLM head.
        question: Text as text, but for one slot, ``[MASK]`` or three or more ``_`` alone, where the options go; without
            a slot they follow the question.
        options: At least two different texts.
        scoring: ``word-l2r`` or ``plain``; see the head of this module.
        is_calibrated: Take from each score that of the option without the question: how much the question adds
            (pointwise mutual information; Holtzman et al. 2021, arXiv:2104.08315, PMI_DC with an empty premise, here of
            means per piece).
        is_blind: Leave the question out: a control.

    Raises:
        DataError: If there are fewer than two options, one is empty, twice there, or wholly outside of the vocabulary,
            or the text is longer than the model's positions.
        ModelError: If the model has no trained MLM head.
    """
    found = choose_all(model, [Question(question, tuple(options))], scoring=scoring, is_calibrated=is_calibrated)[0]
    if isinstance(found, str):
        raise DataError(found)
    return found.blind if is_blind else found.options


def choose_all(
    model: AskedModel,
    questions: Sequence[Question],
    *,
    scoring: Scoring = "word-l2r",
    is_calibrated: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> list[Choice | str]:
    """Score the options of many questions; for one that this model cannot be asked, say in one line why not.

    Args:
        model: As of ``choose``, as are the two after the questions.
        questions: Answers are not looked at.
        scoring: See ``choose``.
        is_calibrated: See ``choose``.
        on_progress: Is told how many more questions are done.

    Raises:
        ModelError: If the model has no trained MLM head.
    """
    model.needs("mlm_head", "choosing between options")
    out: list[Choice | str] = []
    todo = iter(questions)
    while some := list(islice(todo, _QUESTIONS_AT_ONCE)):
        prepared = [_prepared(model, question) for question in some]
        texts = [text for texts in prepared if not isinstance(texts, str) for text in texts]
        means = iter(_mean_log_likelihoods(model, texts, scoring))
        for question, filled in zip(some, prepared, strict=True):
            if isinstance(filled, str):
                out.append(filled)
                continue
            n = len(question.options)
            seen, blind = (np.array(list(islice(means, n))) for _ in range(2))
            n_pieces = [len(text.word) for text in filled[:n]]
            final = seen - blind if is_calibrated else seen
            out.append(Choice(_scores(question, final, n_pieces), _scores(question, blind, n_pieces)))
        if on_progress is not None:
            on_progress(len(some))
    return out


def _best(scores: Sequence[OptionScore]) -> int:
    return max(range(len(scores)), key=lambda i: scores[i].score)


def _scores(question: Question, score: Floats, n_pieces: Sequence[int]) -> list[OptionScore]:
    likelihood = np.exp(score - score.max())
    rows = zip(question.options, score, likelihood / likelihood.sum(), n_pieces, strict=True)
    return [OptionScore(option, float(s), float(p), n) for option, s, p, n in rows]


def _prepared(model: AskedModel, question: Question) -> list[_Filled] | str:
    """Return each option in the question and, after these, each option alone; or why this model cannot be asked."""
    slots = list(_SLOT.finditer(question.text))
    if len(slots) > 1:
        return f"expected one slot for the option at most, found {len(slots)} in {question.text[:60]!a}. Leave one."
    begin, end = slots[0].span() if slots else (len(question.text), len(question.text))
    # A question may be its slot alone.
    problem = option_problem(question.text, question.options)
    if problem:
        return problem
    # Encoded apart, an option has the same pieces in every text; at a space or a sign it would have them anyway.
    left, right = (np.array(ids, np.int64) for ids in model.encode([question.text[:begin], question.text[end:]]))
    encoded = model.tokenizer.encode_batch(list(question.options), add_special_tokens=False)
    seen: dict[tuple[int, ...], str] = {}
    within: list[_Filled] = []
    alone: list[_Filled] = []
    for option, encoding in zip(question.options, encoded, strict=True):
        ids = np.array(encoding.ids, np.int64)
        if not len(ids) or (ids == model.specials.unk).all():
            return f"the option {option[:60]!a} is outside of the model's vocabulary: all of its pieces are unknown."
        before = seen.setdefault(tuple(encoding.ids), option)
        if before is not option:
            return f"the options {before[:60]!a} and {option[:60]!a} are the same to this model's tokenizer."
        word = np.array(encoding.word_ids, np.int64)
        within.append(_Filled(np.concatenate([left, ids, right]), len(left), word))
        alone.append(_Filled(ids, 0, word))
    longest = max(len(text.ids) for text in within)
    if longest > model.most_tokens:
        return (
            f"expected a question with option of at most {model.most_tokens} tokens, found {longest} in "
            f"{question.text[:60]!a}. Shorten it."
        )
    return [*within, *alone]


def _mean_log_likelihoods(model: AskedModel, texts: Sequence[_Filled], scoring: Scoring) -> Floats:
    """Return [texts] the mean logarithmic probability of the pieces of each text's option, in nats."""
    n_pieces = np.array([len(text.word) for text in texts], np.int64)
    owner = np.repeat(np.arange(len(texts)), n_pieces)
    each = [(text, number) for text in texts for number in range(len(text.word))]
    hidden = [_hidden(text, number, scoring, model.specials.mask) for text, number in each]
    place = np.array([text.first + number for text, number in each], np.int64)
    token = np.array([text.ids[text.first + number] for text, number in each], np.int64)
    found = hidden_tokens(model, hidden, text_of=np.arange(len(owner)), place=place, token=token)
    return -np.bincount(owner, found.loss_nats, len(texts)) / n_pieces


def _hidden(text: _Filled, piece: int, scoring: Scoring, mask_id: int) -> Ints:
    """Return the text with one piece of its option hidden, and with it what would give it away."""
    is_hidden = np.arange(len(text.word)) == piece
    if scoring == "word-l2r":
        is_hidden = (text.word == text.word[piece]) & (np.arange(len(text.word)) >= piece)
    ids = text.ids.copy()
    ids[text.first + np.flatnonzero(is_hidden)] = mask_id
    return ids
