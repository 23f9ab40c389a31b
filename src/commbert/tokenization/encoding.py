"""Lines to token ids, each distinct pre-token tokenised once.

WordPiece works inside a pre-token, so a line's ids are its pre-tokens' ids laid end to end.
"""

import json
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from commbert.errors import ModelError
from commbert.text.words import LineCodes

TokenIds = np.ndarray[tuple[int], np.dtype[np.int32]]
Offsets = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True)
class EncodedLines:
    """Token ids of lines, without [CLS] and [SEP]; line i holds ``ids[offsets[i]:offsets[i + 1]]``."""

    ids: TokenIds
    offsets: Offsets


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load ``tokenizer.json`` for encoding text as text: ``[MASK]`` in a source line is six characters, no token.

    Raises:
        ModelError: If the folder has none, or it is not BERT's WordPiece with BERT's normalizer and pre-tokenizer.
    """
    path = folder / "tokenizer.json"
    try:
        spec = json.loads(path.read_text(encoding="utf-8"))
        kinds = [spec[k]["type"] for k in ("model", "normalizer", "pre_tokenizer")]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{path}: expected a BERT tokenizer, found: {error!r}. Choose another base model.") from error
    if kinds != ["WordPiece", "BertNormalizer", "BertPreTokenizer"]:
        # A regular expression of another pre-tokenizer could also be made to run for ever.
        raise ModelError(f"{path}: expected WordPiece, BertNormalizer, BertPreTokenizer, found {', '.join(kinds)}.")
    added = [entry["content"] for entry in spec.get("added_tokens") or () if not entry.get("special")]
    if added:
        raise ModelError(
            f"{path}: expected no added tokens but the special ones, found {len(added)}, {added[0]!a} first: they "
            "match before WordPiece does. Choose another base model."
        )
    model = spec["model"]
    expected = {"unk_token": "[UNK]", "continuing_subword_prefix": "##"}
    wrong = [k for k, v in expected.items() if model.get(k) != v]
    if wrong or any("\n" in entry or "\r" in entry for entry in model["vocab"]):
        raise ModelError(f"{path}: expected {expected} and entries of one line, found another WordPiece.")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise ModelError(f"{path}: cannot be read as a tokenizer: {error}. Choose another base model.") from error
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def cut_alike(one: Path, two: Path) -> bool:
    """Return whether two tokenizer folders give every text the same ids, however their files are written.

    Raises:
        ModelError: As ``load_tokenizer``.
    """
    specs = []
    for folder in (one, two):
        load_tokenizer(folder)
        spec = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        specs.append([spec[part] for part in ("model", "normalizer", "pre_tokenizer")])
    return specs[0] == specs[1]


def is_lower_case(tokenizer: Tokenizer) -> bool:
    """Return whether the tokenizer lowers case."""
    return bool(tokenizer.normalizer.normalize_str("A") == "a")


@dataclass(frozen=True)
class Pieces:
    """Token ids of pre-tokens: the pre-token with code c has ``ids[offsets[c]:offsets[c + 1]]``."""

    ids: TokenIds
    offsets: Offsets

    def __getitem__(self, code: int) -> list[int]:
        found: list[int] = self.ids[self.offsets[code] : self.offsets[code + 1]].tolist()
        return found

    def encode(self, lines: LineCodes) -> EncodedLines:
        """Return the token ids of lines: their pre-tokens' ids laid end to end."""
        codes = lines.codes
        n = np.diff(self.offsets)[codes]
        ends = np.concatenate([[0], np.cumsum(n)])
        # Token t of the whole is token t - ends[p] of its pre-token p.
        shift = np.repeat(self.offsets[codes] - ends[:-1], n)
        shift += np.arange(len(shift))
        return EncodedLines(self.ids[shift], ends[lines.offsets])


def pieces_of(tokenizer: Tokenizer, pretokens: Iterable[str]) -> Pieces:
    """Run WordPiece on each pre-token, which must be as the tokenizer's own pre-tokenizer gives it."""
    tokenize = tokenizer.model.tokenize
    ids, n = array("i"), array("q")
    for pretoken in pretokens:
        tokens = tokenize(pretoken)
        ids.extend([token.id for token in tokens])
        n.append(len(tokens))
    offsets = np.concatenate([[0], np.cumsum(np.frombuffer(n, np.int64) if n else np.empty(0, np.int64))])
    return Pieces(np.array(ids, np.int32), offsets)


def encode_words(tokenizer: Tokenizer, words: Sequence[str]) -> list[list[int]]:
    """Return the token ids of each word on its own, without [CLS] and [SEP]."""
    return [e.ids for e in tokenizer.encode_batch_fast(list(words), add_special_tokens=False)]
