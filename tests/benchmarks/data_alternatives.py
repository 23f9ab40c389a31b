"""Windows and word pairs of a source tree, made without commbert; each alternative is a process of its own.

    python tests/benchmarks/data_alternatives.py generator|datasets --corpus DIR --tokenizer DIR --out DIR \
        [--parquet] [--masks]

* ``generator``: plain Python as in the public generator, with its worst loop repaired (it asked the tokenizer for the
  whole vocabulary at every randomly replaced token): a window at a time through the Hugging Face tokenizer, pairs and
  windows in lists, CSV at the end. ``--parquet`` writes Parquet instead; ``--masks`` also writes the masked
  texts and labels that the public generator draws once and for all. Without it, it does the same work as the others.
* ``datasets``: as the library's documentation has it: ``Dataset.from_generator``, batched ``map`` with a fast
  tokenizer, ``to_parquet``, one process. Its cache is a temporary folder, measured and removed.

Both give the same rows: a window of seven lines around every code line (stripped, not blank), cut to 128 tokens at the
right; every pair of different words of a line; and one random English word for each pair.

Prints one line of JSON: wall_s and cpu_s of the work, import_wall_s and import_cpu_s of what was imported for it first
(process_wall_s and process_cpu_s are everything since the process began), peak_rss_mib, and what was written.
"""

import argparse
import json
import os
import random
import re
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

BEFORE, AFTER, MAX_TOKENS = 3, 3, 128
MASK_RATE, MASK_SHARE, RANDOM_SHARE = 0.15, 0.8, 0.1
WORD = re.compile(r"\b[a-zA-Z_][a-zA-Z0-9_]*\b")
MIN_CHARS = 2
"""Single letters are left out, as the public generator does."""
ENGLISH_WORDS = 10_000
DATASETS_BATCH = 1000
"""The library's own default."""
Pair = tuple[str, str, int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("alternative", choices=["generator", "datasets"])
    parser.add_argument("--corpus", type=Path, required=True, help="folder of source files; all of them are read")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of the tokenizer")
    parser.add_argument("--out", type=Path, required=True, help="folder of what is written")
    parser.add_argument("--parquet", action="store_true", help="generator: write Parquet instead of CSV")
    parser.add_argument("--masks", action="store_true", help="generator: write masked texts and labels too")
    parser.add_argument("--seed", type=int, default=17)
    args = parser.parse_args()
    # Read when the libraries are imported.
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    random.seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    print(json.dumps(run_datasets(args) if args.alternative == "datasets" else run_generator(args)))


class Clock:
    """Time since the process began, in parts."""

    def __init__(self) -> None:
        self._parts: dict[str, tuple[float, float]] = {}
        self._last = (_process_start(), 0.0)

    def lap(self, name: str) -> None:
        """End a part."""
        now = (time.time(), _cpu_s())
        self._parts[name] = (now[0] - self._last[0], now[1] - self._last[1])
        self._last = now

    def figures(self) -> dict[str, float]:
        """Return seconds of the parts, all of them but the imports, and everything."""
        own = {k: v for k, v in self._parts.items() if k != "import"}
        figures = {"wall_s": sum(w for w, _ in own.values()), "cpu_s": sum(c for _, c in own.values())}
        for name, (wall, cpu) in self._parts.items():
            figures |= {f"{name}_wall_s": wall, f"{name}_cpu_s": cpu}
        figures["process_wall_s"] = figures["wall_s"] + self._parts["import"][0]
        figures["process_cpu_s"] = _cpu_s()
        figures["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return {name: round(value, 3) for name, value in figures.items()}


def _process_start() -> float:
    import psutil

    return psutil.Process().create_time()


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


# What both read.


def files_of(corpus: Path) -> Iterator[list[str]]:
    """Yield the code lines of each file that has some, by path."""
    for path in sorted(p for p in corpus.rglob("*") if p.is_file()):
        with path.open(encoding="utf-8", errors="ignore") as file:
            lines = [line.strip() for line in file]
        if lines := [line for line in lines if line]:
            yield lines


def common_words(wordfreq: Any, n: int) -> list[str]:
    """Return the most common English words of plain letters."""
    words = wordfreq.top_n_list("en", 2 * n)
    return [w for w in words if w.isascii() and w.isalpha() and len(w) >= 3][:n]


def window_text(lines: Sequence[str], centre: int) -> str:
    """Return a line with its neighbours."""
    return " ".join(lines[max(0, centre - BEFORE) : centre + AFTER + 1])


def pairs_of(line: str, english: Sequence[str], choice: Callable[[Sequence[str]], str]) -> Iterator[Pair]:
    """Yield the pairs of a line's different words, each followed by its first word with a random English one."""
    words = dict.fromkeys(word.lower() for word in WORD.findall(line) if len(word) >= MIN_CHARS)
    for first, second in combinations(words, 2):
        yield first, second, 1
        yield first, choice(english), 0


# Plain Python.


def run_generator(args: argparse.Namespace) -> dict[str, Any]:
    """Make everything in lists, then write it."""
    clock = Clock()
    import pandas as pd
    import pyarrow.parquet  # noqa: F401  (pandas would import it at the first to_parquet)
    import wordfreq
    from transformers import AutoTokenizer

    clock.lap("import")
    tokenizer = AutoTokenizer.from_pretrained(str(args.tokenizer), local_files_only=True)
    english = common_words(wordfreq, ENGLISH_WORDS)
    vocabulary = list(tokenizer.get_vocab())
    clock.lap("set_up")
    windows: list[dict[str, Any]] = []
    pairs: list[Pair] = []
    n_lines = 0
    for lines in files_of(args.corpus):
        for i, line in enumerate(lines):
            windows.append(window_row(window_text(lines, i), tokenizer, vocabulary if args.masks else None))
            pairs += pairs_of(line, english, random.choice)
        n_lines += len(lines)
    clock.lap("rows")
    for name, rows, columns in (("windows", windows, None), ("pairs", pairs, ["word_a", "word_b", "label"])):
        frame = pd.DataFrame(rows, columns=columns)
        if args.parquet:
            frame.to_parquet(args.out / f"{name}.parquet", index=False)
        else:
            frame.to_csv(args.out / f"{name}.csv", index=False)
    clock.lap("write")
    return report("generator", clock, args, n_lines, len(windows), len(pairs))


def window_row(text: str, tokenizer: Any, vocabulary: list[str] | None) -> dict[str, Any]:
    """Return a window's token ids; with a vocabulary its masked text and labels instead, which are not truncated."""
    if vocabulary is None:
        return {"input_ids": tokenizer(text, truncation=True, max_length=MAX_TOKENS)["input_ids"]}
    tokens = tokenizer.tokenize(text)
    labels = [-100] * len(tokens)
    hidden = random.sample(range(len(tokens)), min(len(tokens), max(1, int(MASK_RATE * len(tokens)))))
    for i in hidden:
        labels[i] = tokenizer.convert_tokens_to_ids([tokens[i]])[0]
        draw = random.random()
        if draw < MASK_SHARE:
            tokens[i] = tokenizer.mask_token
        elif draw < MASK_SHARE + RANDOM_SHARE:
            tokens[i] = random.choice(vocabulary)
    masked_text = tokenizer.convert_tokens_to_string(tokens)
    return {"original_text": text, "masked_text": masked_text, "mask_positions": hidden, "labels": labels}


# The library datasets.


def run_datasets(args: argparse.Namespace) -> dict[str, Any]:
    """Make everything with batched maps over memory-mapped tables."""
    clock = Clock()
    import datasets
    import wordfreq
    from transformers import AutoTokenizer

    clock.lap("import")
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    tokenizer = AutoTokenizer.from_pretrained(str(args.tokenizer), local_files_only=True)
    english = common_words(wordfreq, ENGLISH_WORDS)
    clock.lap("set_up")
    cache = Path(tempfile.mkdtemp(prefix="cache-", dir=args.out))
    try:
        counts = _mapped(datasets, args, tokenizer, english, str(cache), clock)
        cache_bytes = bytes_below(cache)
    finally:
        shutil.rmtree(cache)
    clock.lap("clean")
    return {**report("datasets", clock, args, *counts), "cache_bytes": cache_bytes}


def _mapped(
    datasets: Any, args: argparse.Namespace, tokenizer: Any, english: list[str], cache: str, clock: Clock
) -> tuple[int, int, int]:
    datasets.config.HF_DATASETS_CACHE = Path(cache)
    files = datasets.Dataset.from_generator(
        lambda corpus: ({"lines": lines} for lines in files_of(Path(corpus))),
        gen_kwargs={"corpus": str(args.corpus)},
        cache_dir=cache,
    )
    clock.lap("read")
    # Files are few and long: a batch of ten is about a thousand lines.
    texts = files.map(_window_texts, batched=True, batch_size=10, remove_columns=["lines"])
    windows = texts.map(
        lambda batch: {"input_ids": tokenizer(batch["text"], truncation=True, max_length=MAX_TOKENS)["input_ids"]},
        batched=True,
        batch_size=DATASETS_BATCH,
        remove_columns=["text", "line"],
    )
    clock.lap("windows")
    pairs = texts.map(
        lambda batch: _pair_columns(batch["line"], english),
        batched=True,
        batch_size=DATASETS_BATCH,
        remove_columns=["text", "line"],
    )
    clock.lap("pairs")
    windows.to_parquet(str(args.out / "windows.parquet"))
    pairs.to_parquet(str(args.out / "pairs.parquet"))
    clock.lap("write")
    return len(texts), len(windows), len(pairs)


def _window_texts(batch: dict[str, list[list[str]]]) -> dict[str, list[str]]:
    return {
        "text": [window_text(lines, i) for lines in batch["lines"] for i in range(len(lines))],
        "line": [line for lines in batch["lines"] for line in lines],
    }


def _pair_columns(lines: list[str], english: list[str]) -> dict[str, list[Any]]:
    rows = [pair for line in lines for pair in pairs_of(line, english, random.choice)]
    first, second, label = zip(*rows, strict=True) if rows else ((), (), ())
    return {"word_a": list(first), "word_b": list(second), "label": list(label)}


# What is printed.


def report(
    name: str, clock: Clock, args: argparse.Namespace, n_lines: int, n_windows: int, n_pairs: int
) -> dict[str, Any]:
    """Return the figures of a run."""
    counts = {"n_lines": n_lines, "n_windows": n_windows, "n_pairs": n_pairs}
    return {"name": name, **clock.figures(), **counts, "bytes_written": bytes_below(args.out)}


def bytes_below(folder: Path) -> int:
    """Return the bytes of all files in a folder but those of temporary ones."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


if __name__ == "__main__":
    main()
