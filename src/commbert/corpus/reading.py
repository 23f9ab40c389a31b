"""Reading the tables of the corpus and of its shards back."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from commbert import tables
from commbert.artifacts import read_json
from commbert.errors import DataError

LEXED = {
    kind: {"strings": f"{kind}s.parquet", "lines": f"line_{kind}s.parquet", "counts": f"{kind}_counts.parquet"}
    for kind in ("word", "pretoken")
}
"""Names of the tables in the folder that the stage ``lex`` makes of a shard."""
_NO_WORD = 0xFFFFFFFF


@dataclass(frozen=True)
class ShardSplits:
    """Where the files of a shard went: file number ``i`` of the shard is file ``first_file_id + i`` of the corpus."""

    first_file_id: int
    split: NDArray[np.int8]
    """[n_files] index of each file's split in ``tables.SPLITS``, -1 for a dropped file."""

    def of(self, file_no: NDArray[np.integer[Any]], where: Path) -> NDArray[np.int8]:
        """Return the split of each file number.

        Raises:
            DataError: If the shard has no such file: its tables are older than the corpus.
        """
        if len(file_no) and file_no.max() >= len(self.split):
            raise DataError(f"{where}: the files are not those of the corpus. Rerun the stages from ingest on.")
        return np.asarray(self.split[file_no])


def split_of_files(files: Path) -> NDArray[np.int8]:
    """Return for each file_id the index of its split in ``tables.SPLITS``, -1 for a dropped file."""
    return _split_numbers(tables.read(files, tables.FILES, ["split"])["split"].to_pylist())


def splits_of_shards(files: Path, shards: Path) -> dict[str, ShardSplits]:
    """Return where the files of each shard went, by the shard's name.

    Args:
        files: Table corpus/files.
        shards: The number of files of each shard, in the order of the corpus (JSON of the stage ``corpus``).
    """
    split = split_of_files(files)
    out: dict[str, ShardSplits] = {}
    at = 0
    for entry in read_json(shards):
        out[entry["shard"]] = ShardSplits(at, split[at : at + entry["files"]])
        at += entry["files"]
    return out


def _split_numbers(names: list[str]) -> NDArray[np.int8]:
    return np.array([tables.SPLITS.index(n) if n else -1 for n in names], np.int8)


@dataclass(frozen=True)
class ShardLines:
    """Some lines of a shard with the words of the corpus; line i holds ``word_ids[offsets[i]:offsets[i + 1]]``."""

    word_ids: NDArray[np.uint32]
    """Distinct in each line, in no order; 2^32 - 1 for a word that only dropped files hold."""
    offsets: NDArray[np.int64]
    line: NDArray[np.uint64]
    """[n_lines] a number of each line that no other line of the corpus has: file_id * 2^32 + line_no."""
    split: NDArray[np.int8]
    """[n_lines] index of each line's split in ``tables.SPLITS``, -1 in a dropped file."""


def word_ids_of_codes(words: pl.DataFrame, lexed: Path) -> NDArray[np.uint32]:
    """Return for each code of a shard its word_id, 2^32 - 1 for a word that only dropped files hold.

    Args:
        words: Columns word and word_id of the table corpus/words.
        lexed: Folder of the stage ``lex`` of the shard.
    """
    own = pl.DataFrame(tables.read(lexed / LEXED["word"]["strings"], tables.SHARD_WORDS))
    found = own.join(words.select("word", "word_id"), on="word", how="left", maintain_order="left")["word_id"]
    return np.asarray(found.fill_null(_NO_WORD).to_numpy())


def lines_of_shard(lexed: Path, splits: ShardSplits, id_of_code: NDArray[np.uint32]) -> Iterator[ShardLines]:
    """Yield the lines of a shard that hold two words or more, piece by piece, in order.

    Args:
        lexed: Folder of the stage ``lex`` of the shard.
        splits: Where the files of the shard went.
        id_of_code: As ``word_ids_of_codes`` gives them.
    """
    path = lexed / LEXED["word"]["lines"]
    for piece in tables.read_whole_files(path, tables.LINE_CODES, tables.LINE_CODES.schema.names):
        file_no = piece["file_no"].to_numpy()
        split = splits.of(file_no, path)
        codes, offsets = tables.list_values(piece["codes"])
        file_id = file_no.astype(np.uint64) + np.uint64(splits.first_file_id)
        line = file_id << np.uint64(32) | piece["line_no"].to_numpy().astype(np.uint64)
        yield ShardLines(id_of_code[codes], offsets, line, split)


def total_counts(files: Path, shards: Path, folders: Mapping[str, Path], kind: str) -> pl.DataFrame:
    """Return the strings of kept files over all shards, with how often they stand there; in no order.

    Args:
        files: Table corpus/files.
        shards: The number of files of each shard.
        folders: Folder of the stage ``lex`` of each shard, by its name.
        kind: ``word`` (counted by lines) or ``pretoken`` (by occurrences).

    Returns:
        Columns word, n and n_files (training), n_heldout (validation and test).
    """
    splits = splits_of_shards(files, shards)
    total = pl.DataFrame(schema={"word": pl.String, "n": pl.UInt64, "n_files": pl.UInt32, "n_heldout": pl.UInt64})
    waiting: list[pl.DataFrame] = []
    for name, folder in folders.items():
        waiting.append(_counts_of_shard(folder, splits[name], kind).select(total.columns))
        # Together as soon as they outnumber the total: neither do all lie here at once, nor is all added each time.
        if sum(map(len, waiting)) > len(total):
            total, waiting = _added(total, waiting), []
    return _added(total, waiting)


def _added(total: pl.DataFrame, frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat([total, *frames]).group_by("word").agg(pl.col("n", "n_files", "n_heldout").sum())


def _counts_of_shard(folder: Path, splits: ShardSplits, kind: str) -> pl.DataFrame:
    table = tables.read(folder / LEXED[kind]["counts"], tables.FILE_COUNTS)
    split = splits.of(table["file_no"].to_numpy(), folder)
    counts = pl.DataFrame({"code": table["code"].to_numpy(), "n": table["n"].to_numpy(), "split": split})
    train = pl.col("split") == tables.SPLITS.index("train")
    by_code = (
        counts.filter(pl.col("split") >= 0)
        .group_by("code")
        .agg(
            n=pl.col("n").filter(train).sum().cast(pl.UInt64),
            n_files=train.sum().cast(pl.UInt32),
            n_heldout=pl.col("n").filter(~train).sum().cast(pl.UInt64),
        )
    )
    strings = pl.Series(tables.read(folder / LEXED[kind]["strings"], tables.SHARD_WORDS)["word"])
    return by_code.with_columns(word=strings.gather(by_code["code"])).drop("code")
