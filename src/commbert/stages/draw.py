"""draw: the words of one shard's lines to positive pairs that may be taken, and the sets of pairs that share a line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from commbert import tables
from commbert.artifacts import atomic_folder
from commbert.corpus.reading import lines_of_shard, splits_of_shards, word_ids_of_codes
from commbert.known import pair_keys
from commbert.pairs.keys import KeySet
from commbert.pairs.positives import (
    DrawnPairs,
    LineWords,
    Sample,
    all_pairs,
    capped,
    joined,
    keep_probabilities,
    kept,
    line_words,
    rows_of,
    subsampled,
    with_priorities,
)
from commbert.provenance import digest, digest_of_files
from commbert.settings.pairs import PairsSettings

DRAWN, HELDOUT_LINES, COUNTS = "drawn.parquet", "heldout_lines.parquet", "counts.json"
KEYS = {True: "training_keys.parquet", False: "heldout_keys.parquet"}
"""Names in the folder of a shard; of the keys by whether they are of the training split."""
_TRAIN = tables.SPLITS.index("train")
_PARTNERS = 256
"""Words of one line that are known to share it, at least: of a longer line, so many are drawn."""


def run(settings: PairsSettings, *, files: Path, shards: Path, lexed: Path, words: Path, out: Path) -> dict[str, Any]:
    """Draw from one shard.

    Args:
        settings: The section ``pairs``.
        files: Table corpus/files.
        shards: The number of files of each shard.
        lexed: Folder of the stage ``lex``, named as the shard.
        words: Table corpus/words.
        out: Becomes a folder with the pairs that may be taken, the keys of those that share a line in training or
            elsewhere, and the words of the held-out lines.
    """
    splits = splits_of_shards(files, shards)[lexed.name]
    word_ids = _Words(words, lexed, settings)
    provenance = {"settings": digest(settings.as_json()), "inputs": digest_of_files([files, words])}
    with atomic_folder(out) as tmp:
        with (
            tables.writing(tmp / DRAWN, tables.DRAWN, provenance=provenance) as drawn,
            tables.writing(tmp / HELDOUT_LINES, tables.LINE_WORDS, provenance=provenance) as heldout,
        ):
            drawer = _Drawer(settings, word_ids, lambda split, pairs: drawn.add(_drawn_columns(pairs, split)))
            for some in lines_of_shard(lexed, splits, word_ids.id_of_code):
                lines = line_words(some.word_ids, some.offsets, some.line)
                for number in range(len(tables.SPLITS)):
                    drawer.draw(number, rows_of(lines, some.split == number))
                heldout.add(_line_columns(rows_of(lines, some.split > _TRAIN)))
            drawer.finish()
        for training, keys in drawer.keys.items():
            tables.write(tmp / KEYS[training], tables.PAIR_KEYS, {"key": keys.sorted()}, provenance=provenance)
        counts = {"possible_positives": dict(zip(tables.SPLITS, drawer.possible.tolist(), strict=True))}
        (tmp / COUNTS).write_text(json.dumps(counts) + "\n", encoding="utf-8")
    return counts


class _Words:
    """The words of a shard as words of the corpus, and what the settings say of them."""

    def __init__(self, words: Path, lexed: Path, settings: PairsSettings) -> None:
        table = pl.DataFrame(tables.read(words, tables.CORPUS_WORDS, ["word_id", "word", "n_lines", "is_keyword"]))
        self.id_of_code = word_ids_of_codes(table, lexed)
        """[n_codes] word_id; words of dropped files only have none."""
        keyword = table["is_keyword"].to_numpy()
        self.usable = ~keyword if settings.drop_keywords else np.ones(len(keyword), np.bool_)
        self.share_kept = (
            np.ones(len(keyword))
            if settings.subsample is None
            else keep_probabilities(table["n_lines"].to_numpy(), settings.subsample)
        )


class _Drawer:
    """Takes lines, gives pairs: at once if all are wanted, else at the end those of the lowest priorities."""

    def __init__(self, settings: PairsSettings, words: _Words, give: Callable[[int, DrawnPairs], None]) -> None:
        self._settings, self._words, self._give = settings, words, give
        limits = dict.fromkeys(range(len(tables.SPLITS)), settings.heldout_positives) | {_TRAIN: settings.max_positives}
        self._samples = {split: Sample(n, of_distinct=split != _TRAIN) for split, n in limits.items() if n is not None}
        self.keys = {True: KeySet(), False: KeySet()}
        self.possible = np.zeros(len(tables.SPLITS), np.int64)

    def draw(self, split: int, lines: LineWords) -> None:
        seed = self._settings.seed
        most = self._settings.max_words_per_line
        partners = capped(lines, max(most, _PARTNERS), seed)
        lines = capped(lines, most, seed)
        usable = subsampled(kept(lines, self._words.usable[lines.word_ids]), self._words.share_kept, seed)
        keys = self.keys[split == _TRAIN]
        pairs = joined([with_priorities(a, b, line, seed) for a, b, line in all_pairs(usable)])
        self.possible[split] += len(pairs)
        if len(usable.word_ids) == len(partners.word_ids):
            keys.add(pairs.keys)
        else:
            for a, b, _ in all_pairs(partners):
                keys.add(pair_keys(a, b))
        if split in self._samples:
            self._samples[split].add(pairs)
        else:
            self._give(split, pairs.by_line())

    def finish(self) -> None:
        for split, sample in self._samples.items():
            self._give(split, sample.taken().by_line())


def _line_columns(lines: LineWords) -> dict[str, Any]:
    return {
        "file_id": (lines.line >> np.uint64(32)).astype(np.uint32),
        "line_no": lines.line.astype(np.uint32),
        "word_ids": tables.list_array(tables.LINE_WORDS, "word_ids", lines.word_ids, lines.offsets),
    }


def _drawn_columns(pairs: DrawnPairs, split: int) -> dict[str, Any]:
    return {
        "split": np.full(len(pairs), split, np.uint8),
        "word_id_a": pairs.word_id_a,
        "word_id_b": pairs.word_id_b,
        "file_id": (pairs.line >> np.uint64(32)).astype(np.uint32),
        "line_no": pairs.line.astype(np.uint32),
        "priority": pairs.priority,
    }
