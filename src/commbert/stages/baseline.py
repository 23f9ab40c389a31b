"""baseline: the words of all training lines, or their spelling, to a vector for each word."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy.sparse import csr_array
from threadpoolctl import threadpool_limits

from commbert import tables
from commbert.artifacts import write_json
from commbert.baselines.ngrams import ngram_vectors
from commbert.baselines.ppmi import CoOccurrences, ppmi_vectors
from commbert.baselines.vectors import WordVectors, write_vectors
from commbert.corpus.reading import lines_of_shard, splits_of_shards, word_ids_of_codes
from commbert.errors import DataError
from commbert.pairs.positives import capped, kept, line_words, rows_of
from commbert.provenance import digest, digest_of_files
from commbert.settings.baselines import BaselineKind, BaselinesSettings
from commbert.settings.pairs import PairsSettings

_TRAIN = tables.SPLITS.index("train")


@dataclass(frozen=True)
class BaselinePaths:
    """What a baseline is made from."""

    files: Path
    """Table corpus/files."""
    shards: Path
    """The number of files of each shard."""
    lexed: Mapping[str, Path]
    """Folder of the stage ``lex`` of each shard, by its name."""
    corpus_words: Path
    """Table corpus/words."""
    words: Path
    """Table tokenizer/words: those of corpus/words under the same ids, then English ones."""


def run(
    settings: BaselinesSettings,
    pairs: PairsSettings,
    *,
    kind: BaselineKind,
    data: BaselinePaths,
    vectors_out: Path,
    summary_out: Path,
) -> dict[str, Any]:
    """Make the vectors of one kind.

    Args:
        settings: The section ``baselines``.
        pairs: The section ``pairs``: of long lines and keywords the baseline sees what the drawing of pairs does, so
            it knows all that training may learn from, but nothing is thinned out.
        kind: What the vectors are made from.
        data: The tables.
        vectors_out: Becomes the table baselines/word_vectors.
        summary_out: Becomes counts, time and the share that the dimensions keep (JSON).

    Raises:
        DataError: If nothing of the training split gives a vector.
    """
    wall, cpu = time.monotonic(), time.process_time()
    words = pl.DataFrame(tables.read(data.words, tables.WORDS, ["word", "n_lines", "in_code"]))
    # The number of threads would change the last bits of dense products.
    with threadpool_limits(1):
        if kind == BaselineKind.PPMI_SVD:
            made = _by_lines(settings, pairs, data, len(words))
        else:
            made = _by_spelling(settings, words)
    vectors = made.vectors
    has_vector = vectors.any(axis=1)
    if not has_vector.any():
        raise DataError(
            f"baseline {kind}: expected words that share a training line, found none. Widen the "
            "sources, or take it out of report.systems."
        )
    read = [data.files, data.shards, data.corpus_words, data.words]
    provenance = {
        "settings": digest(kind, settings.as_json(), pairs.as_json()),
        "inputs": digest_of_files(read),
        "words": tables.content_digest(data.words),
    }
    write_vectors(vectors_out, vectors, provenance=provenance)
    in_training = words["n_lines"].to_numpy() > 0
    summary = {
        "kind": kind,
        "dims": vectors.shape[1],
        "explained_pct": 100.0 * made.explained,
        "nonzeros": made.n_nonzero,
        "words": len(words),
        "words_without_vector": int((~has_vector).sum()),
        "training_words_without_vector": int((in_training & ~has_vector).sum()),
        "wall_s": round(time.monotonic() - wall, 3),
        "cpu_s": round(time.process_time() - cpu, 3),
    }
    write_json(summary_out, summary)
    return summary


def _by_lines(settings: BaselinesSettings, pairs: PairsSettings, data: BaselinePaths, n_words: int) -> WordVectors:
    counts = _co_occurrences(pairs, data)
    if counts.shape[0] > n_words:
        raise DataError(
            f"{data.words}: expected the {counts.shape[0]} words of {data.corpus_words}, found {n_words}. "
            "Rerun the stage tokenizer."
        )
    return ppmi_vectors(
        counts,
        n_words,
        dims=settings.dims,
        context_smoothing=settings.context_smoothing,
        shift=settings.shift,
        seed=settings.seed,
    )


def _co_occurrences(pairs: PairsSettings, data: BaselinePaths) -> csr_array:
    """Count the pairs of words of all training lines."""
    table = pl.DataFrame(tables.read(data.corpus_words, tables.CORPUS_WORDS, ["word_id", "word", "is_keyword"]))
    keyword = table["is_keyword"].to_numpy()
    usable = ~keyword if pairs.drop_keywords else np.ones(len(keyword), np.bool_)
    splits = splits_of_shards(data.files, data.shards)
    found = CoOccurrences(len(table))
    for name, lexed in data.lexed.items():
        for some in lines_of_shard(lexed, splits[name], word_ids_of_codes(table, lexed)):
            lines = rows_of(line_words(some.word_ids, some.offsets, some.line), some.split == _TRAIN)
            lines = capped(lines, pairs.max_words_per_line, pairs.seed)
            lines = kept(lines, usable[lines.word_ids])
            found.add(lines.word_ids, lines.offsets)
    return found.counts()


def _by_spelling(settings: BaselinesSettings, words: pl.DataFrame) -> WordVectors:
    return ngram_vectors(
        words["word"].to_list(),
        words["n_lines"].to_numpy() > 0,
        dims=settings.dims,
        lengths=(settings.min_gram, settings.max_gram),
        max_ngrams=settings.max_ngrams,
        seed=settings.seed,
    )
