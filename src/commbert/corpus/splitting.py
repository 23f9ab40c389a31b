"""Train, validation, test: by directory, so that what is measured was not seen."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from commbert.errors import DataError
from commbert.provenance import digest

_OVERSHOOT = 1.3
"""A held-out split may exceed its share by this factor."""


@dataclass(frozen=True)
class SplitInput:
    """What the split needs to know of a kept file."""

    source: str
    path: str
    n_lines: int


def split_files(
    files: Sequence[SplitInput], links: Sequence[tuple[int, int]], *, validation: float, test: float, seed: int
) -> tuple[list[str], str]:
    """Deal the files to ``train``, ``validation`` and ``test``, directory by directory.

    Directories of two linked files stay together. With fewer than three such groups, files are dealt instead of
    directories.

    Args:
        files: The kept files.
        links: Pairs of files that share too many lines to stand in two splits.
        validation: Share of the lines for validation.
        test: Share of the lines for test.
        seed: Decides which groups are held out.

    Returns:
        The split of each file, and ``directory`` or ``file``: what was dealt.

    Raises:
        DataError: If there are not enough files.
    """
    if len(files) < 3:
        raise DataError(
            f"corpus: expected at least 3 usable files, one per split, found {len(files)}. "
            "Widen corpus.sources[].include or add a source."
        )
    for unit in ("directory", "file"):
        groups = _groups(files, links if unit == "directory" else [], unit)
        if len(groups) >= 3:
            break
    sizes = {name: sum(files[i].n_lines for i in members) for name, members in groups.items()}
    split_of = _deal(sizes, {"test": test, "validation": validation}, seed)
    splits = [""] * len(files)
    for name, members in groups.items():
        for i in members:
            splits[i] = split_of[name]
    return splits, unit


def _groups(files: Sequence[SplitInput], links: Sequence[tuple[int, int]], unit: str) -> dict[str, list[int]]:
    def key(file: SplitInput) -> str:
        path = PurePosixPath(file.path)
        return f"{file.source}:{path.parent if unit == 'directory' else path}"

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


def _deal(sizes: Mapping[str, int], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Fill each held-out split in a seeded order of the groups; the rest is for training."""
    order = sorted(sizes, key=lambda name: digest(str(seed), name))
    total = sum(sizes.values())
    split_of: dict[str, str] = {}
    for n_later, (split, share) in zip(range(len(shares), 0, -1), shares.items(), strict=True):
        filled = 0
        for name in order:
            if len(split_of) + n_later >= len(sizes):
                break  # the later splits and training get one group each
            if name not in split_of and filled + sizes[name] <= _OVERSHOOT * share * total and filled < share * total:
                split_of[name] = split
                filled += sizes[name]
        if not filled:
            left = [n for n in order if n not in split_of]
            split_of[min(left, key=lambda n: sizes[n])] = split
    return {name: split_of.get(name, "train") for name in sizes}
