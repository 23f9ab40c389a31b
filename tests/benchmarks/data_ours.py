"""commbert's side of the data benchmark: which commands make a corpus into what training reads. data.py runs them.

All that has to follow the stages is here: ``SAME_ROWS`` and the methods of ``Ours``; the reader's side is ``reader`` in
data_reader.py.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml

from commbert import tables
from commbert.settings.corpus import CorpusSettings
from commbert.settings.words import WordsSettings
from commbert.tables import SPLITS

ROOT = Path(__file__).resolve().parents[2]
LINES_PER_SHARD = 500_000
"""Shards of all corpora are of about this size, so that only their number grows with the corpus."""
MAX_TOKENS = 126
"""Of a window, [CLS] and [SEP] not counted; one of exactly so many may have been cut."""
Stages = list[tuple[str, list[str]]]
Options = list[tuple[str, Path | int]]

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
        sections = {name: self.settings(name, corpus, n_shards) for name in ("words", "tokenizer", "windows", "pairs")}
        told = CorpusSettings.model_validate_json(json.dumps(self.settings("corpus", corpus, n_shards)))
        source = told.sources[0]
        at = _Folders(out)
        jobs: Stages = []

        def add(stage: str, settings: str | None, options: Options) -> None:
            jobs.append((stage, self._command(stage, settings, options)))

        lexing = WordsSettings.model_validate(sections["words"]).of_lines().as_json()
        for number, shard in enumerate(source.shard_names):
            folder = out / "shards" / shard
            made = [("files-out", at.files(shard)), ("lines-out", at.lines(shard)), ("summary-out", at.told(shard))]
            add("ingest", told.of_shard(source).as_json(), [("shard", number), *made])
            add("lex", lexing, [("base", self.base), ("lines", folder / "lines.parquet"), ("out", at.lexed(shard))])
        shards = source.shard_names
        read = [(n, p) for s in shards for n, p in (("shard-files", at.files(s)), ("shard-summary", at.told(s)))]
        made = [("files-out", at.corpus), ("shards-out", at.shards), ("summary-out", out / "corpus/ingest.json")]
        add("corpus", told.gathering().as_json(), [*read, *made])
        add("words", json.dumps(sections["words"]), [*at.gathered, *at.each("lexed", at.lexed, shards), *at.words_out])
        add(
            "tokenizer",
            json.dumps(sections["tokenizer"]),
            [("base", self.base), *at.gathered, *at.each("lexed", at.lexed, shards), *at.tokenizer],
        )
        for shard in shards:
            add("windows", json.dumps(sections["windows"]), [*at.gathered, *at.windows(shard)])
            drawn = [("lexed", at.lexed(shard)), ("words", at.corpus_words), ("out", at.drawn(shard))]
            add("draw", json.dumps(sections["pairs"]), [*at.gathered, *drawn])
        add("list-windows", None, at.window_lists(shards))
        add("pairs", json.dumps(sections["pairs"]), [("files", at.corpus), *at.pairs(shards)])
        return jobs

    def counts(self, out: Path) -> dict[str, int]:
        """Return how many lines, windows and pairs the stages gave, all splits together."""
        n_windows = sum(_rows(path) for split in SPLITS for path in self._windows(out, split))
        n_pairs = sum(_rows(out / f"pairs/{split}.parquet") for split in SPLITS)
        n_lines = sum(_rows(path) for path in (out / "shards").glob("*/lines.parquet"))
        return {"n_lines": n_lines, "n_windows": n_windows, "n_pairs": n_pairs}

    def windows_that_fit(self, out: Path) -> Iterator[bytes]:
        """Yield the token ids (int32, without specials) of every window that lost no line and no token."""
        for path in (p for split in SPLITS for p in self._windows(out, split)):
            table = tables.read(path, tables.WINDOWS, ["input_ids", "n_dropped_lines"])
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

    def _windows(self, out: Path, split: str) -> list[Path]:
        return tables.read_parts(out / f"windows/{split}.json", tables.WINDOWS)

    def workflow(self, corpus: Path, n_shards: int) -> dict[str, Any]:
        """Return what is laid over config.yaml to run the workflow on the corpus."""
        base = {"kind": "path", "path": str(self.base.resolve())}
        removed = dict.fromkeys(("package", "version", "sha256", "folder"))
        return {"corpus": self.settings("corpus", corpus, n_shards), "model": {"base": {**base, **removed}}}

    def import_command(self, stage: str) -> list[str]:
        """Return the command line of a process that only imports what the stage's process imports."""
        module = {"list-windows": "windows"}.get(stage, stage)
        return [self.python, "-c", f"import commbert.cli, commbert.stages.{module}"]

    def _command(self, stage: str, settings: str | None, options: "Options") -> list[str]:
        command = [self.python, "-m", "commbert", stage, *(["--settings", settings] if settings is not None else [])]
        return command + [part for name, value in options for part in (f"--{name}", str(value))]


@dataclass(frozen=True)
class _Folders:
    """Where each thing goes, as in the workflow, and the options that name it."""

    out: Path

    def files(self, shard: str) -> Path:
        return self.out / "shards" / shard / "files.parquet"

    def lines(self, shard: str) -> Path:
        return self.out / "shards" / shard / "lines.parquet"

    def told(self, shard: str) -> Path:
        return self.out / "shards" / shard / "ingest.json"

    def lexed(self, shard: str) -> Path:
        return self.out / "lex" / shard

    def drawn(self, shard: str) -> Path:
        return self.out / "draws" / shard

    @property
    def corpus(self) -> Path:
        return self.out / "corpus/files.parquet"

    @property
    def shards(self) -> Path:
        return self.out / "corpus/shards.json"

    @property
    def corpus_words(self) -> Path:
        return self.out / "corpus/words.parquet"

    @property
    def gathered(self) -> Options:
        return [("files", self.corpus), ("shards", self.shards)]

    @property
    def words_out(self) -> Options:
        english, told = self.out / "corpus/english.json", self.out / "corpus/words.json"
        return [("words-out", self.corpus_words), ("english-out", english), ("summary-out", told)]

    @property
    def tokenizer(self) -> Options:
        folder = self.out / "tokenizer"
        read = [("corpus-words", self.corpus_words), ("english", self.out / "corpus/english.json")]
        made = [("tokenizer-out", "tokenizer"), ("words-out", "words.parquet"), ("receipts-out", "receipts.json")]
        return [*read, *((name, folder / path) for name, path in made)]

    def each(self, option: str, place: Callable[[str], Path], shards: Sequence[str]) -> Options:
        return [(option, place(shard)) for shard in shards]

    def _parts(self, shard: str) -> Options:
        folder = self.out / "windows"
        return [
            *((split, folder / split / f"{shard}.parquet") for split in SPLITS),
            ("hashes", folder / "hashes" / f"{shard}.parquet"),
            ("summary", folder / "counts" / f"{shard}.json"),
        ]

    def windows(self, shard: str) -> Options:
        read = [("lexed", self.lexed(shard)), ("tokenizer", self.out / "tokenizer/tokenizer")]
        return [*read, *((f"{name}-out", path) for name, path in self._parts(shard))]

    def window_lists(self, shards: Sequence[str]) -> Options:
        parts = [(n.replace("summary", "shard-summary"), path) for shard in shards for n, path in self._parts(shard)]
        folder = self.out / "windows"
        made = [(f"{split}-out", folder / f"{split}.json") for split in SPLITS]
        return [*parts, *made, ("summary-out", folder / "summary.json")]

    def pairs(self, shards: Sequence[str]) -> Options:
        folder = self.out / "pairs"
        made = [*SPLITS, "known", "heldout_lines"]
        return [
            *self.each("drawn", self.drawn, shards),
            ("words", self.out / "tokenizer/words.parquet"),
            *((f"{name.replace('_', '-')}-out", folder / f"{name}.parquet") for name in made),
            ("summary-out", folder / "summary.json"),
        ]


def _rows(path: Path) -> int:
    return int(pq.read_metadata(path).num_rows)
