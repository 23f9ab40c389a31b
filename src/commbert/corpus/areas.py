"""Parts of a corpus by its directories, and how frequent words are in each of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from commbert import tables
from commbert.corpus.reading import LEXED, splits_of_shards, word_ids_of_codes

ELSEWHERE = "elsewhere"
"""All areas that are too small to have a name."""

Ints = NDArray[np.int64]


def areas(paths: Sequence[str], n_lines: Ints, *, at_most: int) -> tuple[list[str], Ints]:
    """Divide files by directory into a few areas of similar size.

    From the root down, the area of most lines is divided into its directories until there are ``at_most``; what then is
    too much goes together as ``ELSEWHERE``. An area that was divided keeps the files that lie in it directly.

    Args:
        paths: Path of each file, parts divided by ``/``.
        n_lines: [n] lines of each file, its weight.
        at_most: Areas, 2 or more.

    Returns:
        Names of the areas, the largest first, ``ELSEWHERE`` last, and [n] the area of each file.
    """
    folders = [tuple(path.split("/")[:-1]) for path in paths]
    # An area is a directory and whether all below it belongs to it too.
    found: dict[tuple[tuple[str, ...], bool], list[int]] = {((), True): list(range(len(paths)))}
    while len(found) < at_most:
        open_ones = [(int(n_lines[files].sum()), key) for key, files in found.items() if key[1]]
        if not open_ones:
            break
        _, key = min(open_ones, key=lambda weighed: (-weighed[0], weighed[1]))
        for file in found.pop(key):
            depth = len(key[0])
            below = len(folders[file]) > depth
            found.setdefault((folders[file][: depth + 1] if below else key[0], below), []).append(file)
    ordered = sorted(found.items(), key=lambda item: (-int(n_lines[item[1]].sum()), item[0]))
    named = ordered if len(ordered) <= at_most else ordered[: at_most - 1]
    area_of_file = np.full(len(paths), len(named), np.int64)
    for number, (_, files) in enumerate(named):
        area_of_file[files] = number
    names = ["/".join(folder) or "." for (folder, _), _ in named]
    return names + ([ELSEWHERE] if len(named) < len(ordered) else []), area_of_file


def areas_of_words(
    word_ids: Ints, *, files: Path, shards: Path, folders: Mapping[str, Path], corpus_words: Path, at_most: int
) -> tuple[list[str], Ints]:
    """Return the areas of the corpus and how many lines of each hold each word.

    Memory is that of one shard's counts and of words times areas.

    Args:
        word_ids: [n] ids of words of the code, ascending.
        files: Table corpus/files.
        shards: The number of files of each shard.
        folders: Folder of the stage ``lex`` of each shard, by its name.
        corpus_words: Table corpus/words.
        at_most: As in ``areas``; only kept files count.

    Returns:
        Names of the areas as in ``areas``, and [n, areas] the lines of kept files, of all splits.
    """
    names, area_of_file = _areas_of_corpus(files, at_most)
    vocabulary = pl.DataFrame(tables.read(corpus_words, tables.CORPUS_WORDS, ["word_id", "word"]))
    row_of = np.full(len(vocabulary) + 1, -1, np.int64)
    row_of[word_ids] = np.arange(len(word_ids))
    n = np.zeros((len(word_ids), len(names)), np.int64)
    splits = splits_of_shards(files, shards)
    for name, lexed in folders.items():
        # Words that only dropped files hold have an id beyond all others.
        ids = np.minimum(word_ids_of_codes(vocabulary, lexed), len(vocabulary))
        path = lexed / LEXED["word"]["counts"]
        for counts in tables.read_groups(path, tables.FILE_COUNTS, tables.FILE_COUNTS.schema.names):
            file_no = counts["file_no"].to_numpy()
            row = row_of[ids[counts["code"].to_numpy()]]
            rows = np.flatnonzero((splits[name].of(file_no, path) >= 0) & (row >= 0))
            area = area_of_file[file_no[rows].astype(np.int64) + splits[name].first_file_id]
            np.add.at(n, (row[rows], area), counts["n"].to_numpy()[rows].astype(np.int64))
    return names, n


def typical(counts: Ints) -> NDArray[np.float64]:
    """Return how much each word tells of the area where most of its lines are, 0 for a word that tells nothing.

    Its lines there times the logarithm of how often they are there, over how often lines of all words are: its part of
    the Kullback-Leibler divergence of that area from the corpus.

    Args:
        counts: [n, areas] lines of each word, as ``areas_of_words`` gives them.
    """
    area = counts.argmax(axis=1)
    there = counts[np.arange(len(counts)), area].astype(np.float64)
    expected = counts.sum(axis=1) * (counts.sum(axis=0) / max(1, counts.sum()))[area]
    told = np.zeros(len(counts))
    np.log(there / np.maximum(expected, 1e-300), out=told, where=there > 0)
    return np.asarray(there * told)


def _areas_of_corpus(files: Path, at_most: int) -> tuple[list[str], Ints]:
    """Return the names of the areas and the area of each file_id, -1 for a dropped file."""
    table = pl.DataFrame(tables.read(files, tables.FILES, ["source", "path", "n_used_lines", "kept"]))
    kept = np.flatnonzero(table["kept"].to_numpy())
    is_one = table["source"].n_unique() == 1
    paths = table["path"] if is_one else table.select(pl.concat_str("source", "path", separator="/")).to_series()
    names, area = areas(
        paths.gather(kept).to_list(), table["n_used_lines"].to_numpy()[kept].astype(np.int64), at_most=at_most
    )
    area_of_file = np.full(len(table), -1, np.int64)
    area_of_file[kept] = area
    return names, area_of_file
