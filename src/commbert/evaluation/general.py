"""What a model keeps of general English: its masked language modelling on plain sentences, before and after."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from commbert.errors import DataError
from commbert.nn.encoder import Bert
from commbert.nn.measures import MASK_RATE, mlm_scores
from commbert.nn.packing import SpecialIds

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class GeneralMlm:
    """One row per hidden token, sentence by sentence.

    Another tokenizer hides other pieces, so that losses per token of two models do not compare. Losses per character
    and per word do: the nats of all hidden tokens, divided by the text that they cover, estimate the nats of the whole
    text per character and per word.
    """

    sentence: NDArray[np.int64]
    loss_nats: Floats
    rank: NDArray[np.int64]
    """How many tokens the model held more likely than the right one."""
    n_chars: Floats
    """Characters of the sentence that the token covers."""
    n_words: Floats
    """Its share of its word: a third for each of three pieces. A word is a pre-token; a full stop is one, too."""

    @property
    def loss_per_token(self) -> float:
        """Mean cross-entropy of the hidden tokens, in nats."""
        return float(self.loss_nats.mean())

    @property
    def loss_per_char(self) -> float:
        """Nats of all hidden tokens by the characters that they cover."""
        return float(self.loss_nats.sum() / self.n_chars.sum())

    @property
    def loss_per_word(self) -> float:
        """Nats of all hidden tokens by the words that they cover."""
        return float(self.loss_nats.sum() / self.n_words.sum())

    @property
    def top1(self) -> float:
        """Share of hidden tokens that the model puts first."""
        return float((self.rank < 1).mean())

    @property
    def top5(self) -> float:
        """Share of hidden tokens that the model puts among the first five."""
        return float((self.rank < 5).mean())

    def as_dict(self) -> dict[str, float | int]:
        """Return JSON-ready figures."""
        names = ("loss_per_token", "loss_per_char", "loss_per_word", "top1", "top5")
        return {**{name: getattr(self, name) for name in names}, "n_tokens": len(self.loss_nats)}


def read_sentences(path: Path) -> list[str]:
    """Read a text with one sentence a line, each once.

    Raises:
        DataError: If it is no text in UTF-8, or a line is empty or comes twice; names file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected sentences in UTF-8, found: {error}. Correct the file.") from error
    if not lines:
        raise DataError(f"{path}: expected at least one sentence, found none. Add some.")
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        sentence = line.strip()
        if not sentence:
            raise DataError(f"{path}:{number}: expected a sentence, found an empty line. Remove it.")
        if sentence in seen:
            raise DataError(f"{path}:{number}: expected each sentence once, found that of line {seen[sentence]} again.")
        seen[sentence] = number
    return list(seen)


def general_mlm(
    network: Bert,
    tokenizer: Tokenizer,
    specials: SpecialIds,
    sentences: Sequence[str],
    *,
    seed: int,
    device: torch.device,
) -> GeneralMlm:
    """Hide 15 % of the tokens of plain sentences, always the same ones, and score them.

    Args:
        network: Model with a trained MLM head, on the device.
        tokenizer: Its tokenizer, as ``load_tokenizer`` gives it.
        specials: Ids of the special tokens.
        sentences: What is scored; what of one is longer than the model's positions is left out.
        seed: Decides which tokens are hidden; a tokenizer of equal pieces hides equal ones.
        device: Where to compute.

    Raises:
        DataError: If there is no sentence, or one has no token.
    """
    encodings = tokenizer.encode_batch(list(sentences), add_special_tokens=False)
    limit = network.config.max_position_embeddings - 2
    for sentence, encoding in zip(sentences, encodings, strict=True):
        if not encoding.ids:
            raise DataError(f"general English: expected tokens in every sentence, found none in {sentence!a}.")
        encoding.truncate(limit)
    if not encodings:
        raise DataError("general English: expected at least one sentence, found none.")
    windows = [np.array(encoding.ids, np.int64) for encoding in encodings]
    found = mlm_scores(network, windows, specials, seed=seed, rate=MASK_RATE, device=device)
    covered = [_covered(encoding) for encoding in encodings]
    starts = np.cumsum([0, *map(len, windows)])[found.window]
    n_chars, n_words = (np.concatenate(column)[starts + found.place] for column in zip(*covered, strict=True))
    return GeneralMlm(found.window, found.loss, found.rank, n_chars, n_words)


def _covered(encoding: Encoding) -> tuple[Floats, Floats]:
    """Return the characters and the share of its word that each token covers."""
    begin, end = np.array(encoding.offsets, np.int64).T
    word = np.array(encoding.word_ids, np.int64)
    return (end - begin).astype(np.float64), 1 / np.bincount(word)[word]
