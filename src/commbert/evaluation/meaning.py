"""Whether a model knows what terms mean: acronyms and expansions, opposites, graded similarity of general English."""

import csv
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from commbert.errors import DataError
from commbert.evaluation.bootstrap import Estimate, estimate, resample_weights, spearman

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Embed = Callable[[Sequence[str]], Float[Tensor, "n h"]]
"""From n texts to their unit vectors, float32 on the CPU."""
Pair = tuple[str, str]
HIGHEST_RELATION = 4.0
"""Of the graded pairs: 4 is one meaning, 0 is none in common."""
_BLOCK = 256
_EXAMPLES = 10
_PART = re.compile(r"([_\d]+)")


@dataclass(frozen=True)
class Similarity:
    """Two texts of general English and how near their meanings are, 0 to 4."""

    a: str
    b: str
    relation: float


def read_terms(path: Path) -> list[Pair]:
    """Read a CSV table with the columns acronym and expansion, each entry of a column once, whatever its case.

    Raises:
        DataError: If the file, its header or a line is not as expected; names file and line.
    """
    seen: dict[str, int] = {}
    rows: list[Pair] = []
    for number, (acronym, expansion) in _rows(path, ("acronym", "expansion")):
        for column, entry in (("acronym", acronym), ("expansion", expansion)):
            _check_new(seen, f"{column} {entry.lower()}", path, number)
        rows.append((acronym, expansion))
    return rows


def read_opposites(path: Path) -> list[Pair]:
    """Read a CSV table with the columns a and b: parts of identifiers; one part may have several opposites.

    Raises:
        DataError: As ``read_terms``; also if a part is no lower-case word, its own opposite, or a pair comes twice.
    """
    seen: dict[str, int] = {}
    rows: list[Pair] = []
    for number, (a, b) in _rows(path, ("a", "b")):
        for part in (a, b):
            if not (part.isascii() and part.isalpha() and part.islower()):
                raise DataError(f"{path}:{number}: expected a part of lower-case letters, found {part!a}. Correct it.")
        if a == b:
            raise DataError(f"{path}:{number}: expected two different parts, found {a!a} twice. Correct it.")
        _check_new(seen, " and ".join(sorted((a, b))), path, number)
        rows.append((a, b))
    return rows


def read_similarity(path: Path) -> list[Similarity]:
    """Read a CSV table with the columns a, b (texts) and relation (0 to 4, in halves).

    Raises:
        DataError: As ``read_terms``; also if a relation is no such number, or a pair comes twice.
    """
    seen: dict[str, int] = {}
    rows: list[Similarity] = []
    for number, (a, b, relation) in _rows(path, ("a", "b", "relation")):
        try:
            value = float(relation)
        except ValueError:
            value = math.nan
        if not (0 <= value <= HIGHEST_RELATION and (2 * value).is_integer()):
            raise DataError(
                f"{path}:{number}: expected a relation of 0 to 4 in halves, found {relation!a}. Correct it."
            )
        _check_new(seen, " and ".join(sorted((a.lower(), b.lower()))), path, number)
        rows.append(Similarity(a, b, value))
    return rows


def _rows(path: Path, header: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and stripped cells of each row of a CSV table with exactly these columns."""
    expected = ",".join(header)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file, strict=True)
            found = next(reader, [])
            if found != list(header):
                raise DataError(f"{path}:1: expected the header {expected}, found {','.join(found)!a}. Correct it.")
            for row in reader:
                cells = [cell.strip() for cell in row]
                if len(cells) != len(header) or not all(cells):
                    raise DataError(
                        f"{path}:{reader.line_num}: expected {len(header)} cells ({expected}), none of them empty, "
                        f"found {len(cells) - cells.count('')}. Correct the line."
                    )
                yield reader.line_num, cells
            n_lines = reader.line_num
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: expected a CSV table in UTF-8, found: {error}. Correct the file.") from error
    if n_lines == 1:
        raise DataError(f"{path}: expected at least one row below the header, found none. Add rows.")


def _check_new(seen: dict[str, int], entry: str, path: Path, number: int) -> None:
    if entry in seen:
        raise DataError(f"{path}:{number}: expected each entry once, found {entry!a} on line {seen[entry]} too.")
    seen[entry] = number


@dataclass(frozen=True)
class Ranks:
    """What was found in one direction, one row per pair."""

    reciprocal_rank: Floats
    recall_at_1: Floats
    """1 where the right answer is the first, without a tie; else 0."""


@dataclass(frozen=True)
class AcronymRanks:
    """Both directions of looking up."""

    to_expansion: Ranks
    """The acronym is given, its expansion is looked for."""
    to_acronym: Ranks


def acronym_ranks(embed: Embed, pairs: Sequence[Pair]) -> AcronymRanks:
    """Look for each acronym's expansion among all expansions by cosine, and back.

    Other right answers (of an acronym with several expansions) are taken out of the list; ties count half.

    Args:
        embed: From texts to unit vectors.
        pairs: Acronym and expansion, each pair once.
    """
    acronyms, of_acronym = np.unique(np.array([a for a, _ in pairs], dtype=object), return_inverse=True)
    expansions, of_expansion = np.unique(np.array([e for _, e in pairs], dtype=object), return_inverse=True)
    if not len(pairs):
        nothing = Ranks(np.empty(0), np.empty(0))
        return AcronymRanks(nothing, nothing)
    short, long = embed(acronyms.tolist()), embed(expansions.tolist())
    return AcronymRanks(_ranks(short, long, of_acronym, of_expansion), _ranks(long, short, of_expansion, of_acronym))


def _ranks(queries: Tensor, candidates: Tensor, asked: Ints, wanted: Ints) -> Ranks:
    """Rank the candidates for each pair of ``queries[asked[i]]`` and ``candidates[wanted[i]]``."""
    shape = (len(queries), len(candidates))
    is_right = csr_array((np.ones(len(asked), np.bool_), (asked, wanted)), shape=shape)
    rank = np.empty(len(asked))
    for low in range(0, len(asked), _BLOCK):
        rows = asked[low : low + _BLOCK]
        right = wanted[low : low + _BLOCK]
        scores = (queries[rows] @ candidates.T).double().numpy()
        own = scores[np.arange(len(rows)), right][:, None]
        is_other = ~is_right[rows].toarray()
        above, tied = ((found & is_other).sum(1) for found in (scores > own, scores == own))
        rank[low : low + _BLOCK] = 1 + above + tied / 2
    return Ranks(1 / rank, (rank == 1).astype(np.float64))


@dataclass(frozen=True)
class OppositesRate:
    """How often a word's nearest neighbour is its opposite (ul_grant and dl_grant)."""

    rate: float
    """Of the words with an opposite in the vocabulary, the share with it as nearest word; NaN if there are none."""
    n: int
    """Words with an opposite in the vocabulary; both words of a pair count."""
    mutual_rate: float
    """Of the pairs of opposites, the share in which each is the nearest word of the other."""
    n_pairs: int
    examples: list[Pair]
    """Up to 10 words whose nearest word is their opposite, with it; in the order of the words."""


def words_with_opposites(words: Sequence[str], opposites: Sequence[Pair]) -> Ints:
    """Return the indices of the words whose counterpart is among the words: only their neighbours need be known."""
    return np.array(sorted({i for i, _ in _opposite_words(words, opposites)}), np.int64)


def opposites_rate(words: Sequence[str], nearest: Ints, opposites: Sequence[Pair]) -> OppositesRate:
    """Count the words whose nearest neighbour differs from them by one opposite part.

    Args:
        words: The vocabulary, each word once; parts lie between underscores and digits.
        nearest: [n_words] index of the nearest other word; only those of ``words_with_opposites`` are looked at.
        opposites: Pairs of parts.
    """
    pairs = _opposite_words(words, opposites)
    found = [(i, j) for i, j in sorted(pairs) if nearest[i] == j]
    n, n_pairs = len({i for i, _ in pairs}), len(pairs) // 2
    n_mutual = sum(i < j and nearest[j] == i for i, j in found)
    return OppositesRate(
        rate=len(found) / n if n else math.nan,
        n=n,
        mutual_rate=n_mutual / n_pairs if n_pairs else math.nan,
        n_pairs=n_pairs,
        examples=[(words[i], words[j]) for i, j in found[:_EXAMPLES]],
    )


def _opposite_words(words: Sequence[str], opposites: Sequence[Pair]) -> set[tuple[int, int]]:
    """Return both orders of all pairs of words that differ by one opposite part, by index."""
    of_part: dict[str, list[str]] = {}
    for a, b in opposites:
        of_part.setdefault(a, []).append(b)
        of_part.setdefault(b, []).append(a)
    index = {word: i for i, word in enumerate(words)}
    return {
        (i, index[other]) for i, word in enumerate(words) for other in _counterparts(word, of_part) if other in index
    }


def _counterparts(word: str, of_part: dict[str, list[str]]) -> Iterator[str]:
    """Yield the word with one of its parts replaced by an opposite."""
    parts = _PART.split(word)
    for i, part in enumerate(parts):
        for opposite in of_part.get(part, ()):
            yield "".join([*parts[:i], opposite, *parts[i + 1 :]])


def similarity_cosines(embed: Embed, rows: Sequence[Similarity]) -> Floats:
    """Return [n] the cosine of the two texts of each row."""
    vectors = embed([text for row in rows for text in (row.a, row.b)]).double()
    return np.asarray((vectors[0::2] * vectors[1::2]).sum(-1).numpy())


@dataclass(frozen=True)
class SimilarityCorrelation:
    """How the cosines of graded pairs follow the grades."""

    cosine: Floats
    spearman: Estimate
    """Spearman's correlation, with a bootstrap interval by pair."""


def similarity_correlation(
    embed: Embed, rows: Sequence[Similarity], *, n_resamples: int, seed: int
) -> SimilarityCorrelation:
    """Correlate the cosine of each pair with its grade.

    Args:
        embed: From texts to unit vectors.
        rows: Graded pairs.
        n_resamples: Bootstrap resamples.
        seed: Of the resamples.
    """
    if not rows:
        return SimilarityCorrelation(np.empty(0), estimate(math.nan, np.empty(0), 0))
    cosine = similarity_cosines(embed, rows)
    relation = np.array([row.relation for row in rows])
    _, drawn = resample_weights(np.arange(len(rows)), n_resamples, seed)
    # A resample of n pairs as n rows: row i as often as it was drawn.
    items = np.tile(np.arange(len(rows)), n_resamples)
    chosen = np.repeat(items, drawn.ravel()).reshape(n_resamples, len(rows))
    value = float(spearman(cosine[None], relation[None])[0])
    return SimilarityCorrelation(cosine, estimate(value, spearman(cosine[chosen], relation[chosen]), len(rows)))
