"""What a model knows about functions of held-out files: words that stand in one function, and briefs that tell them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from commbert import tables
from commbert.arrays import distinct
from commbert.counters import bits, key
from commbert.evaluation.meaning import Embed
from commbert.evaluation.retrieval import Floats, Ints, Partners, partners_in_groups
from commbert.text.names import without_name

MAX_CANDIDATES = 1000
MAX_WORDS = 64
_WORDS_AT_ONCE = 2**21
_QUERIES_AT_ONCE = 256
_TIE = 1e-6
"""Cosines that differ by less are equal: float32 sums of one vector differ by the place that it stands in."""


@dataclass(frozen=True)
class FunctionTexts:
    """Functions that have both a brief and code, one row each."""

    function_id: Ints
    file_id: Ints
    name: list[str]
    brief: list[str]
    code: list[str]

    def __len__(self) -> int:
        return len(self.function_id)


@dataclass(frozen=True)
class BriefRanks:
    """One row per brief that was asked."""

    function_id: Ints
    file_id: Ints
    reciprocal_rank: Floats
    """1 / rank of the brief's function among the candidates; ties count half."""
    n_candidates: int
    chance: float
    """The mean reciprocal rank of a list in random order."""


def same_function_partners(
    functions_table: Path,
    heldout_lines_table: Path,
    in_split: NDArray[np.bool_],
    usable: NDArray[np.bool_],
    known: NDArray[np.uint64],
    *,
    seed: int,
    max_words: int = MAX_WORDS,
) -> Partners:
    """Collect for every word of a held-out split the words of the functions that it stands in.

    Pairs that share a training line are left out; those that share a held-out line stay.

    Args:
        functions_table: Table evaluation/functions.
        heldout_lines_table: Table pairs/heldout_lines: words that stand alone on a line are not in it.
        in_split: [n_files] whether a file belongs to the split.
        usable: [n_words] whether a word takes part (no keyword).
        known: Sorted keys of pairs that share a training line.
        seed: For the draw of words of functions that have more than ``max_words``.
        max_words: Distinct words of a function that are paired with each other: pairs grow with the square.
    """
    table = tables.read(functions_table, tables.FUNCTIONS, ["function_id", "file_id", "first_line", "last_line"])
    function_id, file_id, first, last = (table[c].to_numpy().astype(np.int64) for c in table.column_names)
    mine = in_split[file_id]
    lines = tables.read(heldout_lines_table, tables.LINE_WORDS)
    ids, offsets = tables.list_values(lines["word_ids"])
    place = _places(lines["file_id"].to_numpy(), lines["line_no"].to_numpy())
    start = offsets[np.searchsorted(place, _places(file_id[mine], first[mine]), side="left")]
    stop = offsets[np.searchsorted(place, _places(file_id[mine], last[mine]), side="right")]
    stream = key(seed, "words of a function")
    pieces = _words_of_spans(function_id[mine], start, stop, ids, usable)
    return partners_in_groups((_lowest(keys, max_words, stream) for keys in pieces), known)


def _places(file_id: NDArray[np.integer], line_no: NDArray[np.integer]) -> NDArray[np.uint64]:
    return np.asarray((file_id.astype(np.uint64) << np.uint64(32)) | line_no.astype(np.uint64))


def _words_of_spans(
    function_id: Ints, start: Ints, stop: Ints, ids: NDArray[np.uint32], usable: NDArray[np.bool_]
) -> Iterator[NDArray[np.uint64]]:
    """Yield sorted distinct (function_id << 32 | word) of spans of ``ids``, in pieces of whole functions."""
    total = np.concatenate([[0], np.cumsum(stop - start)])
    low = 0
    while low < len(start):
        high = max(low + 1, int(np.searchsorted(total, total[low] + _WORDS_AT_ONCE, side="right")) - 1)
        rows = np.repeat(np.arange(low, high), (stop - start)[low:high])
        words = ids[np.arange(total[low], total[high]) - total[rows] + start[rows]]
        keep = usable[words]
        yield distinct(_places(function_id[rows[keep]], words[keep]))
        low = high


def _lowest(keys: NDArray[np.uint64], max_words: int, stream: int) -> tuple[NDArray[np.uint32], Ints]:
    """Return (ids, offsets) of at most ``max_words`` words of each function, drawn by the key alone."""
    function = keys >> np.uint64(32)
    order = np.lexsort((bits(stream, keys), function))
    begins = np.flatnonzero(np.diff(function, prepend=np.uint64(2**64 - 1)))
    counts = np.diff(np.append(begins, len(keys)))
    kept = np.sort(order[np.arange(len(keys)) - np.repeat(begins, counts) < max_words])
    return keys[kept].astype(np.uint32), np.concatenate([[0], np.cumsum(np.minimum(counts, max_words))])


def read_function_texts(functions_table: Path, in_split: NDArray[np.bool_]) -> FunctionTexts:
    """Read the functions of a split that have a brief and code.

    Args:
        functions_table: Table evaluation/functions.
        in_split: [n_files] whether a file belongs to the split.
    """
    names = ["function_id", "file_id", "name", "brief", "code"]
    table = tables.read(functions_table, tables.FUNCTIONS, names)
    has_both = pc.and_(pc.not_equal(table["brief"], ""), pc.not_equal(table["code"], ""))
    table = table.filter(pc.and_(has_both, in_split[table["file_id"].to_numpy()]))
    ids, texts = ([table[name] for name in part] for part in (names[:2], names[2:]))
    return FunctionTexts(*(c.to_numpy().astype(np.int64) for c in ids), *(c.to_pylist() for c in texts))


def brief_ranks(
    embed: Embed,
    functions: FunctionTexts,
    *,
    seed: int,
    hide_names: bool = True,
    max_candidates: int = MAX_CANDIDATES,
) -> BriefRanks:
    """Look for each brief's function among the code of all functions, by cosine (text-to-code retrieval).

    Args:
        embed: The model.
        functions: Of one split.
        seed: For the draw, if there are more than ``max_candidates``.
        hide_names: Replace a function's name by ``f`` in its own code. A name says what the brief says, in nearly the
            same words (``read_config``, "Read the config"): with it, counting common words does as well.
        max_candidates: Functions that are asked and searched.

    Reference: Husain et al. 2019, arXiv:1909.09436 (CodeSearchNet): the rank of a function among 1000 by its comment.
    """
    rng = np.random.default_rng([seed, 7])
    rows = np.sort(rng.choice(len(functions), min(max_candidates, len(functions)), replace=False))
    if not len(rows):
        return BriefRanks(rows, rows, np.empty(0), 0, float("nan"))
    code = [functions.code[i] for i in rows]
    if hide_names:
        code = [without_name(text, functions.name[i]) for text, i in zip(code, rows, strict=True)]
    candidates = embed(code)
    queries = embed([functions.brief[i] for i in rows])
    ranks = torch.cat([_ranks(queries, candidates, low) for low in range(0, len(rows), _QUERIES_AT_ONCE)])
    chance = float((1.0 / np.arange(1, len(rows) + 1)).mean())
    ids = functions.function_id[rows], functions.file_id[rows]
    return BriefRanks(*ids, 1.0 / ranks.numpy(), len(rows), chance)


def _ranks(queries: Float[Tensor, "n h"], candidates: Float[Tensor, "n h"], low: int) -> Float[Tensor, " rows"]:
    """Return the rank of candidate i for query i, for some of the queries; candidates of equal cosine count half."""
    scores = (queries[low : low + _QUERIES_AT_ONCE] @ candidates.T).double()
    mine = scores[torch.arange(len(scores)), torch.arange(low, low + len(scores))][:, None]
    n_above = (scores > mine + _TIE).sum(1)
    n_tied = ((scores - mine).abs() <= _TIE).sum(1) - 1
    return 1 + n_above.double() + n_tied.double() / 2
