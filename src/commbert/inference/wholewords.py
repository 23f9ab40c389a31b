"""The same whole words hidden for two models, whatever their tokenizers: what makes their MLM figures comparable.

A word is what no tokenizer of the two cuts across: where both follow BERT's rules, a run of letters and digits, a sign,
or a Chinese character. Losses per token depend on how many tokens a tokenizer makes; per word and per character they
compare. All pieces of a hidden word are hidden at once (whole word masking, Cui et al. 2021, arXiv:1906.08101, section
3.1), and each is predicted from what is left: a word that is one piece for one model and four for the other is harder
for the other one, which is part of what is measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from commbert import counters
from commbert.inference.hidden import hidden_tokens
from commbert.inference.models import AskedModel
from commbert.nn.measures import MASK_RATE

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_WORDS_OF_TEXT = np.uint64(32)


@dataclass(frozen=True)
class CutText:
    """One text as words of the two models' making; what is too long for either is cut off, at a word."""

    begin: Ints
    """[words] place of each word's first character."""
    end: Ints
    is_known: NDArray[np.bool_]
    """[words] whether neither model reads a part of it as [UNK]."""
    tokens: tuple["CutTokens", ...]
    """For each model."""


@dataclass(frozen=True)
class CutTokens:
    """The tokens of a text for one model."""

    ids: Ints
    word: Ints
    """[tokens] row of each token's word, ascending."""


@dataclass(frozen=True)
class WordScores:
    """One row per hidden word, text by text; equal rows for both models."""

    text: Ints
    n_chars: Floats
    loss_nats: Floats
    """Sum over its pieces."""
    n_tokens: Floats
    top1: Floats
    """1 where every piece is the model's first guess."""
    top5: Floats


def cut(models: Sequence[AskedModel], texts: Sequence[str]) -> list[CutText]:
    """Cut texts into words that no model's tokenizer cuts across; texts without any are left out."""
    encoded = [model.tokenizer.encode_batch(list(texts), add_special_tokens=False) for model in models]
    found = [_cut(models, encodings) for encodings in zip(*encoded, strict=True)]
    return [text for text in found if len(text.begin)]


def _cut(models: Sequence[AskedModel], encodings: Sequence[Encoding]) -> CutText:
    spans = np.concatenate([_word_spans(encoding) for encoding in encodings])
    begin, end = _merged(spans)
    n_words = len(begin)
    tokens = []
    for model, encoding in zip(models, encodings, strict=True):
        ids = np.array(encoding.ids, np.int64)
        starts = np.array(encoding.offsets, np.int64).reshape(-1, 2)[:, 0]
        word = np.searchsorted(begin, starts, side="right") - 1
        tokens.append(CutTokens(ids, word))
        if len(ids) > model.most_tokens:
            n_words = min(n_words, int(word[model.most_tokens]))
    is_known = np.ones(len(begin), np.bool_)
    for model, of_model in zip(models, tokens, strict=True):
        is_known[of_model.word[of_model.ids == model.specials.unk]] = False
        # A word that a normalizer takes away wholly is none to this model.
        is_known &= np.bincount(of_model.word, minlength=len(begin)) > 0
    kept = tuple(CutTokens(t.ids[t.word < n_words], t.word[t.word < n_words]) for t in tokens)
    return CutText(begin[:n_words], end[:n_words], is_known[:n_words], kept)


def _word_spans(encoding: Encoding) -> Ints:
    """Return [words, 2] where the words of one tokenizer begin and end, in characters of the text."""
    offsets = np.array(encoding.offsets, np.int64).reshape(-1, 2)
    first = np.flatnonzero(np.diff(np.array(encoding.word_ids, np.int64), prepend=-1))
    last = np.append(first[1:], len(offsets)) - 1 if len(first) else first
    return np.stack([offsets[first, 0], offsets[last, 1]], axis=1)


def _merged(spans: Ints) -> tuple[Ints, Ints]:
    """Return begins and ends of the least spans that hold each given one whole."""
    spans = spans[np.lexsort((spans[:, 1], spans[:, 0]))]
    reach = np.maximum.accumulate(spans[:, 1]) if len(spans) else spans[:, 1]
    is_new = np.ones(len(spans), np.bool_)
    is_new[1:] = spans[1:, 0] >= reach[:-1]
    first = np.flatnonzero(is_new)
    last = np.append(first[1:], len(spans)) - 1 if len(first) else first
    return spans[first, 0], reach[last]


def hidden_words(texts: Sequence[CutText], *, seed: int, rate: float = MASK_RATE) -> list[Ints]:
    """Draw the words of each text that are hidden: about a share of them, at least one, none with an [UNK] in it."""
    stream = counters.key(seed, "compared words")
    out = []
    for row, text in enumerate(texts):
        known = np.flatnonzero(text.is_known)
        draw = counters.uniform(stream, (np.uint64(row) << _WORDS_OF_TEXT) | known.astype(np.uint64))
        chosen = known[draw < rate]
        out.append(chosen if len(chosen) or not len(known) else known[[draw.argmin()]])
    return out


def word_scores(model: AskedModel, which: int, texts: Sequence[CutText], hidden: Sequence[Ints]) -> WordScores:
    """Hide words from a model and score them.

    Args:
        model: Has a trained MLM head.
        which: Its place among the models that the texts were cut for.
        texts: The texts.
        hidden: Words of each, ascending.
    """
    sequences, text_of, place, token, word_of = [], [], [], [], []
    n_before = 0
    for row, (text, words) in enumerate(zip(texts, hidden, strict=True)):
        tokens = text.tokens[which]
        at = np.flatnonzero(np.isin(tokens.word, words))
        ids = tokens.ids.copy()
        ids[at] = model.specials.mask
        sequences.append(ids)
        text_of.append(np.full(len(at), row))
        place.append(at)
        token.append(tokens.ids[at])
        word_of.append(n_before + np.searchsorted(words, tokens.word[at]))
        n_before += len(words)
    item = np.concatenate(word_of)
    found = hidden_tokens(
        model, sequences, text_of=np.concatenate(text_of), place=np.concatenate(place), token=np.concatenate(token)
    )
    worst = np.zeros(n_before, np.int64)
    np.maximum.at(worst, item, found.rank)
    lengths = [(text.end - text.begin)[words] for text, words in zip(texts, hidden, strict=True)]
    return WordScores(
        text=np.repeat(np.arange(len(texts)), [len(words) for words in hidden]),
        n_chars=np.concatenate(lengths).astype(np.float64),
        loss_nats=np.bincount(item, found.loss_nats, n_before).astype(np.float64),
        n_tokens=np.bincount(item, minlength=n_before).astype(np.float64),
        top1=(worst < 1).astype(np.float64),
        top5=(worst < 5).astype(np.float64),
    )
