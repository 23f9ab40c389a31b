"""pairs: what was drawn from all shards to word pairs per split, and the set of known pairs."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.sparse import csr_array

from commbert import tables
from commbert.arrays import distinct as sorted_distinct
from commbert.artifacts import read_json, write_json
from commbert.known import Keys, KnownPairs, contains, key_columns
from commbert.pairs.exchange import by_frequency, by_sub_word, within
from commbert.pairs.keys import KeySet, merged
from commbert.pairs.lexical import SubWords, sub_word_matrix
from commbert.pairs.negatives import NO_WORD, Draws, draw_from
from commbert.pairs.positives import DrawnPairs, Ids, distinct, joined, lowest
from commbert.provenance import digest, digest_of_files
from commbert.settings.pairs import PairsSettings
from commbert.stages.draw import COUNTS, DRAWN, HELDOUT_LINES, KEYS
from commbert.text.languages import KEYWORDS

_log = logging.getLogger(__name__)
_TRAIN = tables.SPLITS.index("train")
_NEGATIVE_POWER = 0.75
"""Of a word's training lines: its chance to be a negative (Mikolov et al. 2013, arXiv:1310.4546, section 2.2)."""


@dataclass(frozen=True)
class PairsOutputs:
    """What the stage makes."""

    splits: Mapping[str, Path]
    """Table pairs of each split."""
    known: Path
    """Table pairs/known."""
    heldout_lines: Path
    """Table pairs/heldout_lines."""
    summary: Path
    """Counts and leakage (JSON)."""


def run(
    settings: PairsSettings, *, folders: Sequence[Path], files: Path, words: Path, out: PairsOutputs
) -> dict[str, Any]:
    """Choose the pairs of every split.

    Args:
        settings: The section ``pairs``.
        folders: Folder of the stage ``draw`` of each shard, in the order of the corpus.
        files: Table corpus/files.
        words: Table tokenizer/words.
        out: What becomes of them.

    A corpus may have no pair at all: masked language modelling needs none.
    """
    vocabulary = _Vocabulary(words, drop_keywords=settings.drop_keywords)
    provenance = {"settings": digest(settings.as_json()), "inputs": digest_of_files([files, words])}
    counts = [read_json(folder / COUNTS)["possible_positives"] for folder in folders]
    possible = {split: sum(shard[split] for shard in counts) for split in tables.SPLITS}
    if not possible["train"]:
        _log.warning("no two words share a training line: there are no pairs, and nothing but MLM can be trained")
    known = _gather_keys([f / KEYS[True] for f in folders], out.known, provenance)
    anywhere = KnownPairs(sorted_distinct(np.concatenate([known, *_key_pieces([f / KEYS[False] for f in folders])])))
    facts: dict[str, dict[str, int]] = {
        "train": _write_training(settings, folders, vocabulary, KnownPairs(known), out, provenance)
    }
    leakage: dict[str, dict[str, float | None]] = {}
    for number, split in enumerate(tables.SPLITS[1:], start=1):
        drawn = lowest(distinct(joined(list(_drawn(folders, number)))), settings.heldout_positives).by_line()
        rng = np.random.default_rng([settings.seed, 2, number])
        seen = contains(known, drawn.keys)
        negatives = _heldout_negatives(settings, drawn, seen, vocabulary, anywhere, rng)
        with tables.writing(out.splits[split], tables.PAIRS, provenance=provenance) as writer:
            writer.add(_columns(drawn, negatives))
        facts[split] = {**_counted(drawn, negatives), "distinct_same_line": len(drawn)}
        leakage[split] = {"pairs_seen_in_training_pct": 100.0 * float(seen.mean()) if len(drawn) else None}
    _gather_lines([f / HELDOUT_LINES for f in folders], out.heldout_lines, provenance)
    summary = {
        "known_pairs": len(known),
        "splits": {split: {"possible_positives": possible[split], **facts[split]} for split in tables.SPLITS},
        "leakage": leakage,
    }
    write_json(out.summary, summary)
    return summary


class _Vocabulary:
    """The word table as arrays: frequencies, and the pools that negatives are drawn from."""

    def __init__(self, words: Path, *, drop_keywords: bool) -> None:
        table = tables.read(words, tables.WORDS, ["word", "n_lines", "in_english"])
        keyword = pc.is_in(table["word"], value_set=pa.array(sorted(KEYWORDS))).to_numpy()
        usable = ~keyword if drop_keywords else np.ones(table.num_rows, np.bool_)
        self.n_lines = table["n_lines"].to_numpy()
        self.english: Ids = np.flatnonzero(table["in_english"].to_numpy() & usable).astype(np.uint32)
        self.code: Ids = np.flatnonzero(usable & (self.n_lines > 0)).astype(np.uint32)
        self._words = table["word"]

    @cached_property
    def sub_word_matrix(self) -> csr_array:
        """[n_words, n_sub_words] which word holds which sub-word."""
        return sub_word_matrix(pl.Series(self._words))

    @cached_property
    def code_weight(self) -> NDArray[np.float64]:
        """[n_code] what the chance of a word of the code to be a negative of training is in proportion to."""
        return np.asarray(self.n_lines[self.code].astype(np.float64) ** _NEGATIVE_POWER)

    @cached_property
    def sub_words(self) -> SubWords:
        """Words of the code by the parts that they share."""
        return SubWords(pl.Series(self._words), self.code)


def _key_pieces(paths: Sequence[Path]) -> Iterator[Keys]:
    for path in paths:
        for piece in tables.read_groups(path, tables.PAIR_KEYS, ["key"]):
            yield piece["key"].to_numpy()


def _gather_keys(paths: Sequence[Path], out: Path, provenance: dict[str, str]) -> Keys:
    """Write the table pairs/known and return its keys."""
    parts = [np.empty(0, np.uint64)]
    with tables.writing(out, tables.KNOWN_PAIRS, provenance=provenance) as writer:
        for keys in merged([_key_pieces([path]) for path in paths]):
            writer.add(key_columns(keys))
            parts.append(keys)
    return np.concatenate(parts)


def _gather_lines(paths: Sequence[Path], out: Path, provenance: dict[str, str]) -> None:
    with tables.writing(out, tables.LINE_WORDS, provenance=provenance) as writer:
        for path in paths:
            for piece in tables.read_groups(path, tables.LINE_WORDS, tables.LINE_WORDS.schema.names):
                writer.add(piece)


def _drawn(folders: Sequence[Path], split: int) -> Iterator[DrawnPairs]:
    """Yield what was drawn of a split, in the order of the corpus."""
    for folder in folders:
        for piece in tables.read_groups(folder / DRAWN, tables.DRAWN, tables.DRAWN.schema.names):
            columns = {name: piece[name].to_numpy() for name in piece.column_names}
            line = columns["file_id"].astype(np.uint64) << np.uint64(32) | columns["line_no"]
            pairs = DrawnPairs(columns["word_id_a"], columns["word_id_b"], line, columns["priority"])
            yield pairs.chosen(columns["split"] == split)


def _write_training(
    settings: PairsSettings,
    folders: Sequence[Path],
    vocabulary: _Vocabulary,
    known: KnownPairs,
    out: PairsOutputs,
    provenance: dict[str, str],
) -> dict[str, int]:
    highest = np.uint64(2**64 - 1)
    if settings.max_positives is not None:
        priorities = np.concatenate([np.empty(0, np.uint64), *(p.priority for p in _drawn(folders, _TRAIN))])
        if len(priorities) > settings.max_positives:
            highest = np.partition(priorities, settings.max_positives - 1)[settings.max_positives - 1]
    total: dict[str, int] = {"same_line": 0}
    seen = KeySet()
    with tables.writing(out.splits["train"], tables.PAIRS, provenance=provenance) as writer:
        for piece in _drawn(folders, _TRAIN):
            drawn = piece.chosen(piece.priority <= highest)
            negatives = _training_negatives(settings, drawn, vocabulary, known)
            writer.add(_columns(drawn, negatives))
            seen.add(drawn.keys)
            for kind, n in _counted(drawn, negatives).items():
                total[kind] = total.get(kind, 0) + n
    return {**total, "distinct_same_line": len(seen.sorted())}


def _counted(drawn: DrawnPairs, negatives: list[tuple[str, Ids]]) -> dict[str, int]:
    kinds = dict.fromkeys(kind for kind, _ in negatives)
    found = {kind: int(sum((ids != NO_WORD).sum() for k, ids in negatives if k == kind)) for kind in kinds}
    return {"same_line": len(drawn), **found}


def _training_negatives(
    settings: PairsSettings, drawn: DrawnPairs, vocabulary: _Vocabulary, known: KnownPairs
) -> list[tuple[str, Ids]]:
    a, b = drawn.anchors_and_positives()
    draws = Draws(drawn.priority, settings.seed)
    found = [
        ("english", draw_from(vocabulary.english, a, b, known, draws, kind=f"english {i}"))
        for i in range(settings.english_negatives)
    ]
    for i in range(settings.code_negatives):
        kind, weight = f"frequent code {i}", vocabulary.code_weight
        found.append(("random_code", draw_from(vocabulary.code, a, b, known, draws, kind=kind, weight=weight)))
    if settings.lexical_negatives:
        lexical = vocabulary.sub_words.candidates(a, b, known, draws, n=settings.lexical_negatives)
        found += [("lexical", column) for column in lexical.T]
    return found


def _heldout_negatives(
    settings: PairsSettings,
    drawn: DrawnPairs,
    seen: NDArray[np.bool_],
    vocabulary: _Vocabulary,
    anywhere: KnownPairs,
    rng: np.random.Generator,
) -> list[tuple[str, Ids]]:
    """Return one negative of each kind; the hard kinds are exchanged among seen and among novel pairs."""
    if not len(drawn):
        return []
    a, b = drawn.anchors_and_positives()
    draws = Draws(drawn.priority, settings.seed)
    return [
        ("english", draw_from(vocabulary.english, a, b, anywhere, draws, kind="english")),
        ("random_code", draw_from(vocabulary.code, a, b, anywhere, draws, kind="random code")),
        (
            "frequency_matched",
            within(seen, lambda rows: by_frequency(a[rows], b[rows], vocabulary.n_lines, anywhere, rng)),
        ),
        (
            "lexical",
            within(seen, lambda rows: by_sub_word(a[rows], b[rows], vocabulary.sub_word_matrix, anywhere, rng)),
        ),
    ]


def _columns(drawn: DrawnPairs, negatives: list[tuple[str, Ids]]) -> dict[str, Any]:
    a, b = drawn.anchors_and_positives()
    n, width = len(drawn), 1 + len(negatives)
    second = np.stack([b, *(ids for _, ids in negatives)], axis=1).ravel()
    keep = second != NO_WORD
    kinds = pa.array(["same_line", *(kind for kind, _ in negatives)])
    label = np.array([1] + [0] * len(negatives), np.uint8)
    return {
        "word_id_a": np.repeat(a, width)[keep],
        "word_id_b": second[keep],
        "label": np.tile(label, n)[keep],
        "kind": kinds.take(pa.array(np.tile(np.arange(width), n)[keep])),
        "file_id": np.repeat((drawn.line >> np.uint64(32)).astype(np.uint32), width)[keep],
        "line_no": np.repeat(drawn.line.astype(np.uint32), width)[keep],
    }
