"""windows: the pre-tokens of one shard to its MLM windows; and all shards' windows to one list per split."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from commbert import tables
from commbert.artifacts import read_json, write_json
from commbert.corpus.reading import LEXED, ShardSplits, split_of_files, splits_of_shards
from commbert.errors import DataError
from commbert.leakage import LINE, LONG_LINE, LONG_LINE_TOKENS, WINDOW, Hashes, leakage, share_compared, sum_of
from commbert.provenance import digest, digest_of_files
from commbert.settings.windows import WindowsSettings
from commbert.text.words import LineCodes
from commbert.tokenization.encoding import Pieces, load_tokenizer, pieces_of
from commbert.windows import Windows, cut_files, cut_windows, highest_priority, priorities, window_columns

_TRAIN = tables.SPLITS.index("train")


@dataclass(frozen=True)
class ShardWindows:
    """What becomes of one shard."""

    windows: Mapping[str, Path]
    """Table windows of each split."""
    hashes: Path
    summary: Path


def run(
    settings: WindowsSettings,
    *,
    files: Path,
    shards: Path,
    lexed: Path,
    tokenizer: Path,
    out: ShardWindows,
) -> dict[str, Any]:
    """Cut one shard into windows.

    Args:
        settings: The section ``windows``.
        files: Table corpus/files.
        shards: The number of files of each shard.
        lexed: Folder of the stage ``lex``, named as the shard.
        tokenizer: The tokenizer folder.
        out: Becomes the windows, the hashes by which leakage is measured, and counts.
    """
    splits = splits_of_shards(files, shards)[lexed.name]
    strings = tables.read(lexed / LEXED["pretoken"]["strings"], tables.SHARD_WORDS)["word"].to_pylist()
    cutter = _Cutter(settings, splits, pieces_of(load_tokenizer(tokenizer), strings), files)
    provenance = {
        "settings": digest(settings.as_json()),
        "inputs": digest_of_files([files, tokenizer / "tokenizer.json"]),
    }
    with ExitStack() as stack:
        writers = [
            stack.enter_context(tables.writing(out.windows[split], tables.WINDOWS, provenance=provenance))
            for split in tables.SPLITS
        ]
        lines = lexed / LEXED["pretoken"]["lines"]
        for piece in tables.read_whole_files(lines, tables.LINE_CODES, tables.LINE_CODES.schema.names):
            cutter.cut(piece, writers, lines)
    tables.write(out.hashes, tables.HASHES, cutter.hashes.columns(), provenance=provenance)
    summary = {
        "splits": dict(zip(tables.SPLITS, cutter.counts.tolist(), strict=True)),
        "content": dict(zip(tables.SPLITS, cutter.content, strict=True)),
        **provenance,
    }
    write_json(out.summary, summary)
    return summary


class _Cutter:
    """Cuts piece after piece of a shard, and counts."""

    def __init__(self, settings: WindowsSettings, splits: ShardSplits, pieces: Pieces, files: Path) -> None:
        self._settings, self._splits, self._pieces = settings, splits, pieces
        n_lines = tables.read(files, tables.FILES, ["n_used_lines"])["n_used_lines"].to_numpy().astype(np.int64)
        split = split_of_files(files)
        self.hashes = Hashes(share_compared(int(n_lines[split >= 0].sum())))
        train = np.flatnonzero(split == _TRAIN)
        self._highest = (
            highest_priority(settings.seed, train, n_lines[train], settings.stride, settings.max_windows)
            if settings.max_windows is not None
            else np.uint64(2**64 - 1)
        )
        self.counts = np.zeros((len(tables.SPLITS), 3), np.int64)
        """[split, (windows, tokens, windows that lost lines)]"""
        self.content = [0] * len(tables.SPLITS)
        """[split] sum of the windows' hashes modulo 2^64: says which rows there are, however they are dealt."""

    def cut(self, piece: Any, writers: list[tables.Writer], where: Path) -> None:
        file_no, line_no = piece["file_no"].to_numpy(), piece["line_no"].to_numpy()
        split = self._splits.of(file_no, where)
        encoded = self._pieces.encode(LineCodes(*tables.list_values(piece["codes"])))
        windows = self._cut_piece(encoded.offsets, file_no, split)
        file_id = file_no.astype(np.int64) + self._splits.first_file_id
        n_tokens = np.diff(encoded.offsets)
        for kind, rows in ((LINE, split >= 0), (LONG_LINE, (split > _TRAIN) & (n_tokens >= LONG_LINE_TOKENS))):
            self._hash_lines(kind, rows, split, encoded.ids, n_tokens)
        of_window = split[windows.centre]
        for number, writer in enumerate(writers):
            mine = windows.chosen(of_window == number)
            if number == _TRAIN:
                mine = self._thinned(mine, file_no, file_id)
            self.counts[number] += [len(mine.centre), mine.n_tokens.sum(), (mine.n_dropped_lines > 0).sum()]
            for columns in window_columns(mine, encoded.ids, encoded.offsets, file_id, line_no):
                writer.add(columns)
                ids = columns["input_ids"]
                of_rows = np.full(len(ids), number, np.int8)
                hashes = self.hashes.add(WINDOW, of_rows, ids.values.to_numpy(), ids.offsets.to_numpy())
                self.content[number] = (self.content[number] + sum_of(hashes)) % 2**64

    def _cut_piece(self, offsets: np.ndarray, file_no: np.ndarray, split: np.ndarray) -> Windows:
        settings = self._settings
        if settings.unit == "file":
            return cut_files(offsets, file_no, max_length=settings.max_length)
        return cut_windows(
            offsets,
            file_no,
            np.where(split == _TRAIN, settings.stride, settings.heldout_stride),
            lines_before=settings.lines_before,
            lines_after=settings.lines_after,
            max_length=settings.max_length,
        )

    def _hash_lines(
        self, kind: int, rows: np.ndarray, split: np.ndarray, ids: np.ndarray, n_tokens: np.ndarray
    ) -> None:
        if not rows.all():
            ids = ids[np.repeat(rows, n_tokens)]
        self.hashes.add(kind, split[rows], ids, np.concatenate([[0], np.cumsum(n_tokens[rows])]))

    def _thinned(self, windows: Windows, file_no: np.ndarray, file_id: np.ndarray) -> Windows:
        if self._settings.max_windows is None:
            return windows
        first_row = np.searchsorted(file_no, file_no[windows.centre])
        index = windows.centre - first_row
        return windows.chosen(priorities(self._settings.seed, file_id[windows.centre], index) <= self._highest)


def gather(parts: list[ShardWindows], *, out: Mapping[str, Path], summary_out: Path) -> dict[str, Any]:
    """List the windows of all shards, and measure what leaks.

    Args:
        parts: What ``run`` made of each shard, in the order of the corpus.
        out: Becomes the list of files of each split.
        summary_out: Becomes counts and leakage (JSON).

    Raises:
        DataError: If the training split has no window.
    """
    told = [read_json(part.summary) for part in parts]
    counts = np.sum([[shard["splits"][split] for split in tables.SPLITS] for shard in told], axis=0)
    if not counts[_TRAIN, 0]:
        raise DataError("windows: expected at least one window in the training split, found none. Widen the sources.")
    facts = {key: told[0][key] for key in ("settings", "inputs")}
    for split in tables.SPLITS:
        content = sum(shard["content"][split] for shard in told) % 2**64
        paths = [part.windows[split] for part in parts]
        tables.write_parts(out[split], tables.WINDOWS, paths, **facts, content=f"{content:016x}")
    summary = {
        "splits": {split: _facts(*counts[i].tolist()) for i, split in enumerate(tables.SPLITS)},
        "leakage": leakage([part.hashes for part in parts]),
    }
    write_json(summary_out, summary)
    return summary


def _facts(n_windows: int, n_tokens: int, n_shortened: int) -> dict[str, float]:
    return {
        "windows": n_windows,
        "tokens": n_tokens,
        "tokens_per_window": n_tokens / max(n_windows, 1),
        "windows_with_dropped_lines_pct": 100.0 * n_shortened / max(n_windows, 1),
    }
