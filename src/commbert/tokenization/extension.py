"""Growing a WordPiece vocabulary by words of the code, in a way that every reader of the folder understands.

Entries are sub-identifier words: BERT's pre-tokenizer splits at ``_`` before WordPiece runs, so an entry with ``_``
could never match. They are written into ``tokenizer.json`` and ``vocab.txt`` alike.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from tokenizers import Tokenizer

from commbert.errors import ModelError
from commbert.settings.tokenizer import TokenizerSettings
from commbert.text.interning import Interning
from commbert.text.words import LineCodes
from commbert.tokenization.encoding import Pieces, encode_words, pieces_of

_ENTRY = "^[a-zA-Z0-9]*[a-zA-Z][a-zA-Z0-9]*$"


def choose_words(tokenizer: Tokenizer, counts: pl.DataFrame, settings: TokenizerSettings) -> list[str]:
    """Return the entries that save the most tokens: by count x (pieces - 1), then by the alphabet.

    Args:
        tokenizer: The base tokenizer.
        counts: Pre-tokens with n and n_files of the training split, as ``corpus.reading.total_counts`` gives them.
        settings: The section ``tokenizer``.
    """
    fit = counts.filter(
        (pl.col("n") >= settings.min_count)
        & (pl.col("n_files") >= settings.min_files)
        & pl.col("word").str.len_chars().is_between(settings.min_chars, settings.max_chars)
        & pl.col("word").str.contains(_ENTRY)
    )
    n_pieces = pl.Series(np.diff(pieces_of(tokenizer, fit["word"]).offsets))
    gains = fit.select("word", gain=pl.col("n").cast(pl.Int64) * (n_pieces - 1)).filter(pl.col("gain") > 0)
    return gains.sort([-pl.col("gain"), "word"])["word"].head(settings.max_new_words).to_list()


def write_tokenizer(base: Path, out: Path, words: Sequence[str]) -> None:
    """Write the base folder's tokenizer with ``words`` appended to its vocabulary.

    ``out`` receives tokenizer.json, vocab.txt and tokenizer_config.json. Truncation and padding that the base carries
    are taken off: they would cut every text in silence.

    Raises:
        ModelError: If a word is already an entry, ids have gaps, or a gate of ``check_extension`` fails.
    """
    spec: dict[str, Any] = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary: dict[str, int] = spec["model"]["vocab"]
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise ModelError(f"{base}/tokenizer.json: expected ids without gaps. Choose another base model.")
    for word in words:
        if word in vocabulary:
            raise ModelError(f"{base}/tokenizer.json: {word!r} is already an entry.")
        vocabulary[word] = len(vocabulary)
    spec["truncation"] = spec["padding"] = None
    (out / "tokenizer.json").write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")
    by_id = sorted(vocabulary, key=lambda word: vocabulary[word])
    (out / "vocab.txt").write_text("".join(f"{word}\n" for word in by_id), encoding="utf-8", newline="\n")
    write_config(out, lower_case=bool(spec["normalizer"]["lowercase"]))


def write_config(out: Path, *, lower_case: bool) -> None:
    """Write tokenizer_config.json of a BERT tokenizer into ``out``."""
    config = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": lower_case,
        "model_max_length": 512,
        **{f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")},
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def check_extension(base: Tokenizer, grown: Tokenizer, words: Sequence[str]) -> None:
    """Prove that old entries kept their ids and that each new entry is what its word is encoded to.

    Raises:
        ModelError: Naming what is wrong.
    """
    before, after = base.get_vocab(), grown.get_vocab()
    moved = [w for w, i in before.items() if after.get(w) != i]
    if moved:
        raise ModelError(f"tokenizer: {len(moved)} old entries changed their ids, {moved[0]!r} first.")
    unreachable = [w for w, ids in zip(words, encode_words(grown, words), strict=True) if ids != [after[w]]]
    if unreachable:
        raise ModelError(f"tokenizer: {len(unreachable)} new entries can never match, {unreachable[0]!r} first.")


@dataclass(frozen=True)
class Cut:
    """How two tokenizers cut the same pre-tokens."""

    interning: Interning
    """Codes of the pre-tokens."""
    before: Pieces
    after: Pieces


def plain_words(counts: pl.DataFrame) -> NDArray[np.bool_]:
    """Return [n] which pre-tokens are words of held-out lines: plain letters and digits, a letter at least."""
    return ((counts["n_heldout"] > 0) & counts["word"].str.contains(_ENTRY)).to_numpy()


def fertility_of(lengths: NDArray[np.int64], n: NDArray[np.float64]) -> dict[str, float]:
    """Return tokens per word and the share (%) of words of one token; ``n`` words have ``lengths`` tokens."""
    n_all = max(n.sum(), 1)
    return {
        "tokens_per_word": float(n @ lengths) / n_all,
        "one_token_words_pct": 100 * float(n[lengths == 1].sum()) / n_all,
    }


def receipts(
    base: Tokenizer,
    grown: Tokenizer,
    cut: Cut,
    *,
    new_words: Sequence[str],
    counts: pl.DataFrame,
    english: Sequence[str],
) -> dict[str, Any]:
    """Return what the extension bought and what it cost, measured on held-out lines.

    Args:
        base: The tokenizer before.
        grown: The tokenizer after.
        cut: How both cut the pre-tokens and the English words.
        new_words: The entries added.
        counts: Pre-tokens, with n of the training split and n_heldout of the others.
        english: Common English words, of small plain letters, whose new cuts are listed.
    """
    heldout = plain_words(counts)
    n_of_word = counts["n_heldout"].to_numpy()[heldout].astype(np.float64)
    codes = cut.interning.codes(counts["word"].to_arrow())
    fertility = {}
    for name, pieces in (("before", cut.before), ("after", cut.after)):
        fertility[name] = fertility_of(np.diff(pieces.offsets)[codes[heldout]], n_of_word)
    english_codes = zip(english, cut.interning.codes_of(list(english)).tolist(), strict=True)
    recut = [(w, b, a) for w, code in english_codes if (b := cut.before[code]) != (a := cut.after[code])]
    trained = np.zeros(grown.get_vocab_size(), np.bool_)
    trained[cut.after.encode(LineCodes(codes[(counts["n"] > 0).to_numpy()], np.zeros(1, np.int64))).ids] = True
    seen = set(counts["word"].filter(pl.Series(heldout)))
    n_before = base.get_vocab_size()
    return {
        "entries_before": n_before,
        "entries_after": grown.get_vocab_size(),
        "entries_added": len(new_words),
        "entries_added_seen_in_heldout_pct": 100 * sum(w in seen for w in new_words) / max(len(new_words), 1),
        "reachable": len(new_words),
        "new_rows_never_trained": int((~trained[n_before:]).sum()),
        "old_rows_never_trained": int((~trained[:n_before]).sum()),
        "heldout_words": int(n_of_word.sum()),
        "fertility": fertility,
        "english_words_checked": len(english),
        "english_words_recut": len(recut),
        "english_words_recut_examples": [
            f"{w}: {_pieces(base, b)} -> {_pieces(grown, a)}" for w, b, a in sorted(recut, key=lambda r: r[0])[:20]
        ],
        "first_words": list(new_words[:50]),
    }


def _pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    return " ".join(tokenizer.id_to_token(i) or "?" for i in ids)
