"""Lines to token ids, each distinct pre-token tokenised once.

WordPiece works inside a pre-token, so a line's ids are its pre-tokens' ids laid end to end. For lines of printable
ASCII, BERT's normalizer and pre-tokenizer are one regular expression; every other line goes through the tokenizer.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from commbert.errors import ModelError

_PRETOKEN = re.compile(r"[A-Za-z0-9]+|[^\sA-Za-z0-9]")

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
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: expected a BERT tokenizer, found: {error!r}. Choose another base model.") from error
    if kinds != ["WordPiece", "BertNormalizer", "BertPreTokenizer"]:
        # A regular expression of another pre-tokenizer could also be made to run for ever.
        raise ModelError(f"{path}: expected WordPiece, BertNormalizer, BertPreTokenizer, found {', '.join(kinds)}.")
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


def is_lower_case(tokenizer: Tokenizer) -> bool:
    """Return whether the tokenizer lowers case."""
    return bool(tokenizer.normalizer.normalize_str("A") == "a")


def pretokens(line: str, *, lower: bool) -> list[str] | None:
    """Return the pre-tokens of a line of printable ASCII; None if the line needs the tokenizer itself."""
    line = line.replace("\t", " ")
    if not (line.isascii() and line.isprintable()):
        return None
    return _PRETOKEN.findall(line.lower() if lower else line)


def encode_lines(tokenizer: Tokenizer, lines: Sequence[str]) -> EncodedLines:
    """Encode lines exactly as ``tokenizer.encode(line, add_special_tokens=False)`` does."""
    lower = is_lower_case(tokenizer)
    split = [pretokens(line, lower=lower) for line in lines]
    distinct = list(dict.fromkeys(p for parts in split if parts is not None for p in parts))
    encoded = tokenizer.encode_batch_fast(distinct, add_special_tokens=False)
    ids_of = {p: e.ids for p, e in zip(distinct, encoded, strict=True)}
    ids: list[int] = []
    offsets = [0]
    for line, parts in zip(lines, split, strict=True):
        if parts is None:
            ids += tokenizer.encode(line, add_special_tokens=False).ids
        else:
            for part in parts:
                ids += ids_of[part]
        offsets.append(len(ids))
    return EncodedLines(np.array(ids, np.int32), np.array(offsets, np.int64))


def encode_words(tokenizer: Tokenizer, words: Sequence[str]) -> list[list[int]]:
    """Return the token ids of each word on its own, without [CLS] and [SEP]."""
    return [e.ids for e in tokenizer.encode_batch_fast(list(words), add_special_tokens=False)]
