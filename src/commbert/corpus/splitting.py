"""Train, validation, test: by directory, tables by row, so that what is measured was not seen."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from commbert.errors import DataError
from commbert.provenance import digest

_OVERSHOOT = 1.3
"""A held-out split may exceed its share by this factor."""
_ORDER = ("test", "validation", "train")


@dataclass(frozen=True)
class SplitInput:
    """What the split needs to know of a kept file."""

    source: str
    path: str
    n_lines: int
    split: str = ""
    """Where its source says that it belongs; empty: it is dealt."""
    is_row: bool = False
    """A row of a table: it has no directory and is dealt by itself."""


def split_files(
    files: Sequence[SplitInput], links: Sequence[tuple[int, int]], *, validation: float, test: float, seed: int
) -> tuple[list[str], str]:
    """Deal the files to ``train``, ``validation`` and ``test``: directory by directory, tables row by row.

    Directories (rows) of two linked files stay together. With fewer than three such groups, files are dealt instead of
    directories. Files whose source says their split keep it; what is linked to them goes where they are, if they are in
    several splits to the held-out one.

    Args:
        files: The kept files.
        links: Pairs of files that share too many lines to stand in two splits.
        validation: Share of the lines that are dealt for validation.
        test: Share of the lines that are dealt for test.
        seed: Decides which groups are held out.

    Returns:
        The split of each file, and what was dealt: ``directory``, ``file``, ``row``, ``column`` (said by the source).

    Raises:
        DataError: If there are not enough files, or a split that all sources say has none.
    """
    if len(files) < len(_ORDER):
        raise DataError(
            f"corpus: expected at least 3 usable files, one per split, found {len(files)}. "
            "Widen corpus.sources[].include or add a source."
        )
    is_said = any(file.split for file in files)
    for unit in ("directory", "file"):
        groups = _groups(files, links if unit == "directory" else [], unit)
        if len(groups) >= len(_ORDER) or is_said:
            break
    split_of = {name: split for name, members in groups.items() if (split := _said(files, members))}
    sizes = {name: sum(files[i].n_lines for i in groups[name]) for name in groups if name not in split_of}
    split_of |= _deal(sizes, {"test": test, "validation": validation}, seed, fills_each=not is_said)
    splits = [""] * len(files)
    for name, members in groups.items():
        for i in members:
            splits[i] = files[i].split or split_of[name]
    lacking = [name for name in _ORDER if name not in splits]
    if lacking:
        raise DataError(
            f"corpus: expected rows of all splits where tables say them, found none for {', '.join(lacking)}. "
            "Add them to the table, or take corpus.sources[].split_column away."
        )
    return splits, _unit(files, unit)


def _said(files: Sequence[SplitInput], members: Sequence[int]) -> str:
    """Return the split that members of a group are said to be of; of several the one that training sees least of."""
    said = {files[i].split for i in members}
    return next((name for name in _ORDER if name in said), "")


def _unit(files: Sequence[SplitInput], unit: str) -> str:
    kinds = {"column" if file.split else "row" if file.is_row else unit for file in files}
    return " and ".join(sorted(kinds))


def _groups(files: Sequence[SplitInput], links: Sequence[tuple[int, int]], unit: str) -> dict[str, list[int]]:
    def key(file: SplitInput) -> str:
        alone = file.is_row or unit == "file"
        return f"{file.source}:{file.path if alone else PurePosixPath(file.path).parent}"

    keys = [key(f) for f in files]
    parent = {k: k for k in keys}

    def root(k: str) -> str:
        while parent[k] != k:
            parent[k] = k = parent[parent[k]]
        return k

    for a, b in links:
        low, high = sorted((root(keys[a]), root(keys[b])))
        parent[high] = low
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for i, k in enumerate(keys):
        groups[root(k)].append(i)
    return dict(groups)


def _deal(sizes: Mapping[str, int], shares: Mapping[str, float], seed: int, *, fills_each: bool) -> dict[str, str]:
    """Fill each held-out split in a seeded order of the groups; the rest is for training.

    Args:
        sizes: Lines of each group.
        shares: Part of the lines for each held-out split.
        seed: Of the order.
        fills_each: Every split gets a group, however large.
    """
    order = sorted(sizes, key=lambda name: digest(str(seed), name))
    total = sum(sizes.values())
    split_of: dict[str, str] = {}
    for n_later, (split, share) in zip(range(len(shares), 0, -1), shares.items(), strict=True):
        filled = 0
        for name in order:
            if fills_each and len(split_of) + n_later >= len(sizes):
                break  # the later splits and training get one group each
            if name not in split_of and filled + sizes[name] <= _OVERSHOOT * share * total and filled < share * total:
                split_of[name] = split
                filled += sizes[name]
        if fills_each and not filled:
            left = [n for n in order if n not in split_of]
            split_of[min(left, key=lambda n: sizes[n])] = split
    return {name: split_of.get(name, "train") for name in sizes}
