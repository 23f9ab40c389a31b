"""pairs: words of lines to word pairs per split, and the set of known pairs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from commbert import tables
from commbert.artifacts import write_json
from commbert.corpus.reading import split_of_files
from commbert.errors import DataError
from commbert.known import Keys, contains, pair_keys, write_known
from commbert.pairs.negatives import NO_WORD, draw_from, draw_matched
from commbert.pairs.positives import (
    DrawnPairs,
    Ids,
    LineWords,
    all_pair_keys,
    capped,
    draw_pairs,
    kept,
    subsampled,
)
from commbert.provenance import digest, digest_of_files
from commbert.settings.pairs import PairsSettings
from commbert.text.languages import KEYWORDS


def run(
    settings: PairsSettings,
    *,
    files: Path,
    line_words: Path,
    words: Path,
    out: Mapping[str, Path],
    known_out: Path,
    summary_out: Path,
) -> dict[str, Any]:
    """Draw the pairs of every split.

    Args:
        settings: The section ``pairs``.
        files: Table corpus/files.
        line_words: Table corpus/line_words.
        words: Table tokenizer/words.
        out: Becomes the table pairs of each split.
        known_out: Becomes the table pairs/known.
        summary_out: Becomes counts and leakage (JSON).

    Raises:
        DataError: If the training split has no pair.
    """
    table = tables.read(line_words, tables.LINE_WORDS)
    file_id, line_no = table["file_id"].to_numpy(), table["line_no"].to_numpy()
    word_ids, offsets = tables.list_values(table["word_ids"])
    split = split_of_files(files)[file_id]
    vocabulary = _Vocabulary(words, drop_keywords=settings.drop_keywords)
    lines = {s: _lines_of(LineWords(word_ids, offsets), split == i) for i, s in enumerate(tables.SPLITS)}
    known = all_pair_keys(lines["train"])
    anywhere = np.unique(np.concatenate([known, *(all_pair_keys(lines[s]) for s in tables.SPLITS[1:])]))
    provenance = {"settings": digest(settings.as_json()), "inputs": digest_of_files([files, line_words, words])}
    write_known(known_out, known, provenance)
    summary: dict[str, Any] = {"known_pairs": len(known), "splits": {}, "leakage": {}}
    for number, name in enumerate(tables.SPLITS):
        rng = np.random.default_rng([settings.seed, 2, number])
        rows = np.flatnonzero(split == number)
        usable = _usable(lines[name], vocabulary, settings, rng)
        if name == "train":
            drawn = draw_pairs(usable, settings.max_positives, rng)
            negatives = _training_negatives(drawn, vocabulary, settings.english_negatives, known, rng)
        else:
            drawn = _distinct(draw_pairs(usable, None, rng), settings.heldout_positives)
            negatives = _heldout_negatives(drawn, vocabulary, anywhere, rng)
            leaked = contains(known, pair_keys(drawn.word_id_a, drawn.word_id_b))
            summary["leakage"][name] = {
                "pairs_seen_in_training_pct": 100.0 * float(leaked.mean()) if len(leaked) else 0.0
            }
        if name == "train" and len(drawn.line) == 0:
            raise DataError("pairs: expected at least one line with two words in the training split, found none.")
        columns = _columns(drawn, negatives, file_id[rows], line_no[rows])
        tables.write(out[name], tables.PAIRS, columns, provenance=provenance)
        summary["splits"][name] = _counts(usable, drawn, negatives)
    write_json(summary_out, summary)
    return summary


def _counts(usable: LineWords, drawn: DrawnPairs, negatives: list[tuple[str, Ids]]) -> dict[str, int]:
    n_words = np.diff(usable.offsets)
    return {
        "possible_positives": int((n_words * (n_words - 1) // 2).sum()),
        "same_line": len(drawn.line),
        "distinct_same_line": len(np.unique(pair_keys(drawn.word_id_a, drawn.word_id_b))),
        **{
            kind: int(sum((ids != NO_WORD).sum() for k, ids in negatives if k == kind))
            for kind in dict.fromkeys(k for k, _ in negatives)
        },
    }


class _Vocabulary:
    """The word table as arrays: frequencies, and the pools that negatives are drawn from."""

    def __init__(self, words: Path, *, drop_keywords: bool) -> None:
        table = tables.read(words, tables.WORDS, ["word", "n_lines", "n_files", "in_english"])
        text = table["word"].to_pylist()
        self.n_lines = table["n_lines"].to_numpy()
        self.usable = np.array([not (drop_keywords and w in KEYWORDS) for w in text], np.bool_)
        in_english = table["in_english"].to_numpy(zero_copy_only=False)
        self.english: Ids = np.flatnonzero(in_english & self.usable).astype(np.uint32)
        self.n_words = len(text)


def _lines_of(lines: LineWords, chosen: np.ndarray) -> LineWords:
    counts = np.diff(lines.offsets)
    return LineWords(lines.word_ids[np.repeat(chosen, counts)], np.concatenate([[0], np.cumsum(counts[chosen])]))


def _usable(lines: LineWords, vocabulary: _Vocabulary, settings: PairsSettings, rng: np.random.Generator) -> LineWords:
    lines = kept(lines, vocabulary.usable[lines.word_ids])
    if settings.subsample is not None:
        lines = subsampled(lines, vocabulary.n_lines, settings.subsample, rng)
    return capped(lines, settings.max_words_per_line, rng)


def _distinct(drawn: DrawnPairs, n: int) -> DrawnPairs:
    """Keep the first occurrence of each unordered pair, ``n`` at most."""
    _, first = np.unique(pair_keys(drawn.word_id_a, drawn.word_id_b), return_index=True)
    keep = np.sort(first)[:n]
    return DrawnPairs(drawn.word_id_a[keep], drawn.word_id_b[keep], drawn.line[keep])


def _training_negatives(
    drawn: DrawnPairs, vocabulary: _Vocabulary, n_english: int, known: Keys, rng: np.random.Generator
) -> list[tuple[str, Ids]]:
    return [
        ("english", draw_from(vocabulary.english, drawn.word_id_a, drawn.word_id_b, known, rng))
        for _ in range(n_english)
    ]


def _heldout_negatives(
    drawn: DrawnPairs, vocabulary: _Vocabulary, anywhere: Keys, rng: np.random.Generator
) -> list[tuple[str, Ids]]:
    a, b = drawn.word_id_a, drawn.word_id_b
    code = np.flatnonzero(vocabulary.usable & (vocabulary.n_lines > 0)).astype(np.uint32)
    if len(a) == 0:
        return []
    return [
        ("english", draw_from(vocabulary.english, a, b, anywhere, rng)),
        ("random_code", draw_from(code, a, b, anywhere, rng)),
        ("frequency_matched", draw_matched(a, b, vocabulary.n_lines, anywhere, rng)),
    ]


def _columns(
    drawn: DrawnPairs, negatives: list[tuple[str, Ids]], file_id: np.ndarray, line_no: np.ndarray
) -> dict[str, Any]:
    n, width = len(drawn.line), 1 + len(negatives)
    second = (
        np.stack([drawn.word_id_b, *(ids for _, ids in negatives)], axis=1).ravel() if n else np.empty(0, np.uint32)
    )
    keep = second != NO_WORD
    kinds = np.array(["same_line", *(kind for kind, _ in negatives)])
    label = np.array([1] + [0] * len(negatives), np.uint8)
    return {
        "word_id_a": np.repeat(drawn.word_id_a, width)[keep],
        "word_id_b": second[keep],
        "label": np.tile(label, n)[keep],
        "kind": pa.array(np.tile(kinds, n)[keep].tolist(), pa.string()),
        "file_id": np.repeat(file_id[drawn.line], width)[keep],
        "line_no": np.repeat(line_no[drawn.line], width)[keep],
    }
