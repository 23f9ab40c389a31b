"""words: the words of all shards to one numbered vocabulary."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import wordfreq

from commbert import tables
from commbert.artifacts import write_json
from commbert.corpus.reading import total_counts
from commbert.errors import DataError
from commbert.provenance import digest, digest_of_files
from commbert.settings.words import WordsSettings
from commbert.text.languages import KEYWORDS


def run(
    settings: WordsSettings,
    *,
    files: Path,
    shards: Path,
    folders: Mapping[str, Path],
    words_out: Path,
    english_out: Path,
    summary_out: Path,
) -> dict[str, Any]:
    """Count and number the words.

    Args:
        settings: The section ``words``.
        files: Table corpus/files.
        shards: The number of files of each shard.
        folders: Folder of the stage ``lex`` of each shard, by its name.
        words_out: Becomes the table corpus/words.
        english_out: Becomes the list of common English words (JSON).
        summary_out: Becomes counts (JSON).

    Raises:
        DataError: If the training split has fewer than two words.
    """
    found = total_counts(files, shards, folders, "word").sort([-pl.col("n").cast(pl.Int64), "word"])
    n_in_training = int((found["n"] > 0).sum())
    if n_in_training < 2:
        raise DataError(
            f"words: expected at least 2 distinct words in the training split, found {n_in_training}. "
            "Widen corpus.sources[].include, or check words.pattern."
        )
    english = english_words(settings)
    provenance = {
        "settings": digest(settings.as_json()),
        "inputs": digest_of_files([files]),
    }
    in_english = found["word"].is_in(english)
    columns = {
        "word_id": pl.int_range(len(found), dtype=pl.UInt32, eager=True).to_arrow(),
        "word": found["word"].to_arrow(),
        "n_lines": found["n"].to_arrow(),
        "n_files": found["n_files"].to_arrow(),
        "in_english": in_english.to_arrow(),
        "is_keyword": found["word"].is_in(list(KEYWORDS)).to_arrow(),
    }
    tables.write(words_out, tables.CORPUS_WORDS, columns, provenance=provenance)
    write_json(english_out, english)
    summary = {
        "words": len(found),
        "words_in_training": n_in_training,
        "words_in_english_pct": 100.0 * int(in_english.sum()) / len(found),
        "occurrences": int((found["n"] + found["n_heldout"]).sum()),
        "english_words": len(english),
        "most_frequent": found["word"].head(20).to_list(),
    }
    write_json(summary_out, summary)
    return summary


def english_words(settings: WordsSettings) -> list[str]:
    """Return the most common English words of plain letters, most common first."""
    words = wordfreq.top_n_list("en", 2 * settings.english_words)
    plain = [w for w in words if w.isascii() and w.isalpha() and len(w) >= max(settings.min_chars, 3)]
    return plain[: settings.english_words]
