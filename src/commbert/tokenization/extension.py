"""Growing a WordPiece vocabulary by words of the code, in a way that every reader of the folder understands.

Entries are sub-identifier words: BERT's pre-tokenizer splits at ``_`` before WordPiece runs, so an entry with ``_``
could never match. They are written into ``tokenizer.json`` and ``vocab.txt`` alike.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from commbert.errors import ModelError
from commbert.settings.tokenizer import TokenizerSettings
from commbert.tokenization.encoding import encode_words, pretokens

_ASCII_RUN = re.compile(r"(?<![^\W_])[ -~]+(?![^\W_])")
_ENTRY = re.compile(r"(?=[a-zA-Z0-9]*[a-zA-Z])[a-zA-Z0-9]+")


def count_pretokens(lines: Iterable[tuple[int, str]], *, lower: bool) -> tuple[Counter[str], Counter[str]]:
    """Count pre-tokens over (file, line): occurrences, and files that hold each."""
    counts: Counter[str] = Counter()
    pairs: set[tuple[int, str]] = set()
    for file_id, line in lines:
        parts = pretokens(line, lower=lower)
        if parts is None:
            parts = [p for run in _ASCII_RUN.findall(line) for p in pretokens(run, lower=lower) or ()]
        counts.update(parts)
        pairs.update((file_id, p) for p in set(parts))
    return counts, Counter(p for _, p in pairs)


def choose_words(
    tokenizer: Tokenizer, counts: Counter[str], n_files: Counter[str], settings: TokenizerSettings
) -> list[str]:
    """Return the entries that save the most tokens: by count x (pieces - 1), then by the alphabet."""
    fit = [
        word
        for word, n in counts.items()
        if n >= settings.min_count
        and n_files[word] >= settings.min_files
        and settings.min_chars <= len(word) <= settings.max_chars
        and _ENTRY.fullmatch(word)
    ]
    pieces = dict(zip(fit, map(len, encode_words(tokenizer, fit)), strict=True))
    gain = {word: counts[word] * (pieces[word] - 1) for word in fit if pieces[word] > 1}
    return sorted(gain, key=lambda word: (-gain[word], word))[: settings.max_new_words]


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
    config = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": bool(spec["normalizer"]["lowercase"]),
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


def receipts(
    base: Tokenizer,
    grown: Tokenizer,
    *,
    new_words: Sequence[str],
    counts: Counter[str],
    heldout_counts: Counter[str],
    english: Sequence[str],
) -> dict[str, Any]:
    """Return what the extension bought and what it cost, measured on held-out lines.

    Args:
        base: The tokenizer before.
        grown: The tokenizer after.
        new_words: The entries added.
        counts: Pre-tokens of the training split.
        heldout_counts: Pre-tokens of the validation and test splits.
        english: Common English words, whose new cuts are listed.
    """
    words = [w for w in heldout_counts if _ENTRY.fullmatch(w)]
    n_words = sum(heldout_counts[w] for w in words)
    fertility = {}
    for name, tokenizer in (("before", base), ("after", grown)):
        lengths = dict(zip(words, map(len, encode_words(tokenizer, words)), strict=True))
        fertility[name] = {
            "tokens_per_word": sum(heldout_counts[w] * lengths[w] for w in words) / max(n_words, 1),
            "one_token_words_pct": 100 * sum(heldout_counts[w] for w in words if lengths[w] == 1) / max(n_words, 1),
        }
    cuts = zip(english, encode_words(base, english), encode_words(grown, english), strict=True)
    recut = [(w, b, a) for w, b, a in cuts if a != b]
    trained = {i for ids in encode_words(grown, list(counts)) for i in ids}
    n_before = base.get_vocab_size()
    return {
        "entries_before": n_before,
        "entries_after": grown.get_vocab_size(),
        "entries_added": len(new_words),
        "entries_added_seen_in_heldout_pct": 100 * sum(w in heldout_counts for w in new_words) / max(len(new_words), 1),
        "reachable": len(new_words),
        "new_rows_never_trained": sum(i not in trained for i in range(n_before, grown.get_vocab_size())),
        "old_rows_never_trained": sum(i not in trained for i in range(n_before)),
        "heldout_words": n_words,
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
