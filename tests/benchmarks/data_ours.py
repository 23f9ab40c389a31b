"""commbert's side of the data benchmark: which commands make a corpus into what training reads. data.py runs them.

All that has to follow the stages is here: ``SAME_ROWS`` and the methods of ``Ours``; the reader's side is ``reader`` in
data_reader.py.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml

from commbert import tables
from commbert.tables import SPLITS

ROOT = Path(__file__).resolve().parents[2]
LINES_PER_SHARD = 500_000
"""Shards of all corpora are of about this size, so that only their number grows with the corpus."""
MAX_TOKENS = 126
"""Of a window, [CLS] and [SEP] not counted; one of exactly so many may have been cut."""
Stages = list[tuple[str, list[str]]]

SAME_ROWS: dict[str, dict[str, Any]] = {
    # What makes commbert write the rows of the alternatives: every line, every window, every pair, one English word
    # for each pair. The smallest two directories are held out, for there is no run without held-out lines.
    "corpus": {
        "drop_duplicates": False,
        "near_duplicates": None,
        "drop_generated": False,
        "drop_licence_headers": False,
        "redact_secrets": False,
        "split": {"validation": 0.0, "test": 0.0},
    },
    "words": {"text": "all", "min_chars": 2},
    "tokenizer": {"mode": "keep"},
    "windows": {"stride": 1, "heldout_stride": 1, "max_windows": None, "max_length": 128},
    "pairs": {
        "max_words_per_line": 4096,
        "max_positives": None,
        "subsample": None,
        "drop_keywords": False,
        "english_negatives": 1,
        "heldout_positives": 1_000_000,
    },
}


@dataclass(frozen=True)
class Ours:
    """commbert's data stages on one corpus."""

    python: str
    base: Path
    """Folder of the base model."""
    same_rows: bool = False
    """The rows of the alternatives instead of the settings of config.yaml."""

    def settings(self, section: str, corpus: Path, n_shards: int) -> dict[str, Any]:
        """Return a section of config.yaml for the corpus."""
        raw = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))[section]
        changes = SAME_ROWS.get(section, {}) if self.same_rows else {}
        found = {**raw, **changes}
        if section == "corpus":
            found["sources"] = [{"kind": "path", "name": "bench", "path": str(corpus.resolve()), "shards": n_shards}]
        return found

    def stages(self, corpus: Path, out: Path, n_shards: int) -> Stages:
        """Return (stage, command line) of every job, in the order they run; a stage may have several jobs."""
        files, lines = out / "corpus/files.parquet", out / "corpus/lines.parquet"
        words, english = out / "corpus/words.parquet", out / "corpus/english.json"
        jobs: dict[str, dict[str, Path]] = {
            "ingest": {"files-out": files, "lines-out": lines, "summary-out": out / "corpus/ingest.json"},
            "words": {
                "files": files,
                "lines": lines,
                "words-out": words,
                "line-words-out": out / "corpus/line_words.parquet",
                "english-out": english,
                "summary-out": out / "corpus/words.json",
            },
            "tokenizer": {
                "base": self.base,
                "files": files,
                "lines": lines,
                "corpus-words": words,
                "english": english,
                "tokenizer-out": out / "tokenizer/tokenizer",
                "words-out": out / "tokenizer/words.parquet",
                "receipts-out": out / "tokenizer/receipts.json",
            },
            "windows": {
                "files": files,
                "lines": lines,
                "tokenizer": out / "tokenizer/tokenizer",
                **self._splits(out, "windows"),
            },
            "pairs": {
                "files": files,
                "line-words": out / "corpus/line_words.parquet",
                "words": out / "tokenizer/words.parquet",
                **self._splits(out, "pairs"),
                "known-out": out / "pairs/known.parquet",
            },
        }
        sections = {"ingest": "corpus"}
        return [
            (stage, self._command(stage, self.settings(sections.get(stage, stage), corpus, n_shards), options))
            for stage, options in jobs.items()
        ]

    def counts(self, out: Path) -> dict[str, int]:
        """Return how many lines, windows and pairs the stages gave, all splits together."""
        n_windows = sum(_rows(out / f"windows/{split}.parquet") for split in SPLITS)
        n_pairs = sum(_rows(out / f"pairs/{split}.parquet") for split in SPLITS)
        return {"n_lines": _rows(out / "corpus/lines.parquet"), "n_windows": n_windows, "n_pairs": n_pairs}

    def windows_that_fit(self, out: Path) -> Iterator[bytes]:
        """Yield the token ids (int32, without specials) of every window that lost no line and no token."""
        for split in SPLITS:
            table = tables.read(out / f"windows/{split}.parquet", tables.WINDOWS, ["input_ids", "n_dropped_lines"])
            values, offsets = tables.list_values(table["input_ids"])
            whole = (table["n_dropped_lines"].to_numpy() == 0) & (np.diff(offsets) < MAX_TOKENS)
            yield from (values[offsets[i] : offsets[i + 1]].astype(np.int32).tobytes() for i in np.flatnonzero(whole))

    def positives(self, out: Path) -> Iterator[tuple[str, str]]:
        """Yield the two words of every positive pair, in either order."""
        words = tables.read(out / "tokenizer/words.parquet", tables.WORDS, ["word"])["word"].to_pylist()
        for split in SPLITS:
            table = tables.read(out / f"pairs/{split}.parquet", tables.PAIRS, ["word_id_a", "word_id_b", "label"])
            chosen = table["label"].to_numpy() == 1
            first, second = (table[c].to_numpy()[chosen].tolist() for c in ("word_id_a", "word_id_b"))
            yield from ((words[a], words[b]) for a, b in zip(first, second, strict=True))

    def workflow(self, corpus: Path, n_shards: int) -> dict[str, Any]:
        """Return what is laid over config.yaml to run the workflow on the corpus."""
        base = {"kind": "path", "path": str(self.base.resolve())}
        removed = dict.fromkeys(("package", "version", "sha256", "folder"))
        return {"corpus": self.settings("corpus", corpus, n_shards), "model": {"base": {**base, **removed}}}

    def import_command(self, stage: str) -> list[str]:
        """Return the command line of a process that only imports what the stage's process imports."""
        return [self.python, "-c", f"import commbert.cli, commbert.stages.{stage}"]

    def _command(self, stage: str, settings: dict[str, Any], options: dict[str, Path]) -> list[str]:
        command = [self.python, "-m", "commbert", stage, "--settings", json.dumps(settings)]
        return command + [part for name, path in options.items() for part in (f"--{name}", str(path))]

    def _splits(self, out: Path, table: str) -> dict[str, Path]:
        splits = {f"{s}-out": out / table / f"{s}.parquet" for s in SPLITS}
        return {**splits, "summary-out": out / table / "summary.json"}


def _rows(path: Path) -> int:
    return int(pq.read_metadata(path).num_rows)
