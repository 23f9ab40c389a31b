"""Whether commbert and the repaired generator made the same rows; data.py runs it. Prints one line of JSON."""

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from data_ours import MAX_TOKENS, Ours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ours", type=Path, required=True, help="what the stages made, with the settings of same rows")
    parser.add_argument("--theirs", type=Path, required=True, help="what data_alternatives.py made, in Parquet")
    args = parser.parse_args()
    side = Ours("", Path(), same_rows=True)
    mine = Counter(side.windows_that_fit(args.ours)), Counter(tuple(sorted(p)) for p in side.positives(args.ours))
    theirs = windows_that_fit(args.theirs), positives(args.theirs)
    names = ("windows", "positives")
    figures = {f"{n}_equal": share_equal(a, b) for n, a, b in zip(names, mine, theirs, strict=True)}
    counts = {f"{n}_compared": max(a.total(), b.total()) for n, a, b in zip(names, mine, theirs, strict=True)}
    print(json.dumps({**figures, **counts}))


def windows_that_fit(folder: Path) -> Counter[bytes]:
    """Return the token ids between [CLS] and [SEP] of windows that were not truncated."""
    column = pq.read_table(folder / "windows.parquet")["input_ids"]
    rows = (np.asarray(row.values, np.int32)[1:-1] for row in column)
    return Counter(row.tobytes() for row in rows if len(row) < MAX_TOKENS)


def positives(folder: Path) -> Counter[tuple[str, ...]]:
    table = pq.read_table(folder / "pairs.parquet").to_pydict()
    rows = zip(table["word_a"], table["word_b"], table["label"], strict=True)
    return Counter(tuple(sorted((a, b))) for a, b, label in rows if label == 1)


def share_equal(mine: Counter, theirs: Counter) -> float:
    """Return the share of rows, each as often as it stands there, that both have."""
    return (mine & theirs).total() / max(mine.total(), theirs.total(), 1)


if __name__ == "__main__":
    main()
