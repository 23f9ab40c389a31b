"""words: corpus lines to the words of the code, and the words of each line."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import wordfreq

from commbert import tables
from commbert.artifacts import write_json
from commbert.corpus.reading import CorpusLines, read_lines
from commbert.errors import DataError
from commbert.provenance import digest, digest_of_files
from commbert.settings.words import WordsSettings
from commbert.text.languages import KEYWORDS
from commbert.text.words import WordLines, words_of_lines


def run(
    settings: WordsSettings,
    *,
    files: Path,
    lines: Path,
    words_out: Path,
    line_words_out: Path,
    english_out: Path,
    summary_out: Path,
) -> dict[str, Any]:
    """Find and count the words.

    Raises:
        DataError: If the training split has fewer than two words.
    """
    corpus = read_lines(files, lines, column="code" if settings.text == "code" else "text")
    found = words_of_lines(
        corpus.text, pattern=settings.pattern, min_chars=settings.min_chars, max_chars=settings.max_chars
    )
    n_lines, n_files = _training_counts(corpus, found)
    if int((n_lines > 0).sum()) < 2:
        raise DataError(
            f"words: expected at least 2 distinct words in the training split, found {int((n_lines > 0).sum())}. "
            "Widen corpus.sources[].include, or check words.pattern."
        )
    order = sorted(range(len(found.vocabulary)), key=lambda i: (-int(n_lines[i]), found.vocabulary[i]))
    vocabulary = [found.vocabulary[i] for i in order]
    english = english_words(settings)
    in_english = frozenset(english)
    provenance = {"settings": digest(settings.as_json()), "inputs": digest_of_files([files, lines])}
    columns = {
        "word_id": list(range(len(order))),
        "word": vocabulary,
        "n_lines": n_lines[order],
        "n_files": n_files[order],
        "in_english": [w in in_english for w in vocabulary],
        "is_keyword": [w in KEYWORDS for w in vocabulary],
    }
    tables.write(words_out, tables.CORPUS_WORDS, columns, provenance=provenance)
    word_id = np.empty(len(order), np.uint32)
    word_id[order] = np.arange(len(order))
    n_rows = tables.write(line_words_out, tables.LINE_WORDS, _line_words(corpus, found, word_id), provenance=provenance)
    write_json(english_out, english)
    summary = {
        "words": len(vocabulary),
        "words_in_training": int((n_lines > 0).sum()),
        "words_in_english_pct": 100.0 * sum(w in in_english for w in vocabulary) / max(len(vocabulary), 1),
        "occurrences": len(found.codes),
        "lines_with_two_words": n_rows,
        "english_words": len(english),
        "most_frequent": vocabulary[:20],
    }
    write_json(summary_out, summary)
    return summary


def english_words(settings: WordsSettings) -> list[str]:
    """Return the most common English words of plain letters, most common first."""
    words = wordfreq.top_n_list("en", 2 * settings.english_words)
    plain = [w for w in words if w.isascii() and w.isalpha() and len(w) >= max(settings.min_chars, 3)]
    return plain[: settings.english_words]


def _training_counts(corpus: CorpusLines, found: WordLines) -> tuple[np.ndarray, np.ndarray]:
    line = np.repeat(np.arange(len(corpus.text)), np.diff(found.offsets))
    in_training = corpus.split[line] == tables.SPLITS.index("train")
    codes, n = found.codes[in_training], len(found.vocabulary)
    n_lines = np.bincount(codes, minlength=n).astype(np.uint64)
    per_file = np.unique(np.stack([codes, corpus.file_id[line[in_training]].astype(np.int64)]), axis=1)
    return n_lines, np.bincount(per_file[0], minlength=n).astype(np.uint32)


def _line_words(corpus: CorpusLines, found: WordLines, word_id: np.ndarray) -> dict[str, Any]:
    counts = np.diff(found.offsets)
    rows = np.flatnonzero(counts >= 2)
    keep = np.repeat(counts >= 2, counts)
    offsets = np.concatenate([[0], np.cumsum(counts[rows])]).astype(np.int32)
    ids = pa.array(word_id[found.codes[keep]], pa.uint32())
    return {
        "file_id": corpus.file_id[rows],
        "line_no": corpus.line_no[rows],
        "word_ids": pa.ListArray.from_arrays(
            pa.array(offsets), ids, type=tables.LINE_WORDS.schema.field("word_ids").type
        ),
    }
