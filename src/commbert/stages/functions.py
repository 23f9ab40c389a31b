"""functions: the kept files of all shards to their functions, with what their comments say."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from commbert import tables
from commbert.artifacts import write_json
from commbert.corpus.reading import ShardSplits, splits_of_shards
from commbert.errors import DataError
from commbert.provenance import digest_of_files
from commbert.text.functions import Function, functions_of, has_grammar

MAX_CODE_CHARS = 4000
"""Of a function's code: more than any encoder of 512 tokens reads."""
_COUNTED = ("files", "functions", "without_brief")


def run(*, files: Path, shards: Path, lines: Mapping[str, Path], out: Path, summary_out: Path) -> dict[str, Any]:
    """Find the functions of all kept files.

    Args:
        files: Table corpus/files.
        shards: The number of files of each shard, in the order of the corpus (JSON of the stage ``corpus``).
        lines: Table shard/lines of each shard, by its name.
        out: Becomes the table evaluation/functions.
        summary_out: Becomes counts (JSON).

    Raises:
        DataError: If the lines are not those of the corpus's shards.
    """
    splits_of = splits_of_shards(files, shards)
    if splits_of.keys() != lines.keys():
        raise DataError(f"{shards}: expected the shards {sorted(lines)}, found {sorted(splits_of)}. Rerun corpus.")
    language = tables.read(files, tables.FILES, ["language"])["language"]
    found = _Found()
    provenance = {"inputs": digest_of_files([files])}
    with tables.writing(out, tables.FUNCTIONS, provenance=provenance) as writer:
        for name, splits in splits_of.items():
            for file_no, rows in _kept_files(lines[name], splits):
                file_id = splits.first_file_id + file_no
                split = tables.SPLITS[splits.split[file_no]]
                writer.add(found.columns(file_id, split, language[file_id].as_py(), rows))
    summary = {"splits": {split: found.told(split) for split in tables.SPLITS}, **provenance}
    write_json(summary_out, summary)
    return summary


def _kept_files(path: Path, splits: ShardSplits) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number and lines of each kept file of a shard."""
    for piece in tables.read_whole_files(path, tables.LINES, tables.LINES.schema.names):
        kept = piece.filter(splits.of(piece["file_no"].to_numpy(), path) >= 0)
        numbers, starts = np.unique(kept["file_no"].to_numpy(), return_index=True)
        ends = np.append(starts, kept.num_rows)[1:]
        for number, start, end in zip(numbers.tolist(), starts.tolist(), ends.tolist(), strict=True):
            rows = kept.slice(start, end - start)
            columns = {name: rows[name].to_numpy().astype(np.int64) for name in ("line_no", "indent")}
            yield number, {**columns, "text": rows["text"].to_pylist(), "code": rows["code"].to_pylist()}


class _Found:
    """Makes rows of functions, and counts."""

    def __init__(self) -> None:
        self._n_functions = 0
        self._counts: Counter[tuple[str, str, str]] = Counter()
        """By split, language (empty: of all) and what is counted."""

    def columns(self, file_id: int, split: str, language: str, rows: dict[str, Any]) -> dict[str, Any]:
        """Return the rows of the table corpus/functions of one file."""
        line_no, indent, text = rows["line_no"], rows["indent"], rows["text"]
        functions = functions_of(language, line_no, indent, text)
        self._count(split, language, functions)
        functions = functions or []
        first_id, n = self._n_functions, len(functions)
        self._n_functions += n
        return {
            "function_id": np.arange(first_id, first_id + n, dtype=np.uint32),
            "file_id": np.full(n, file_id, np.uint32),
            "first_line": np.array([f.first_line for f in functions], np.uint32),
            "last_line": np.array([f.last_line for f in functions], np.uint32),
            "name": pa.array([f.name for f in functions], pa.string()),
            "brief": pa.array([f.brief for f in functions], pa.string()),
            "code": pa.array([_code(f, line_no, rows["code"]) for f in functions], pa.string()),
        }

    def _count(self, split: str, language: str, functions: Sequence[Function] | None) -> None:
        if functions is None:
            what = "files_not_parsed" if has_grammar(language) else "files_without_grammar"
            self._counts[split, "", what] += 1
            return
        numbers = (1, len(functions), sum(not f.brief for f in functions))
        for what, n in zip(_COUNTED, numbers, strict=True):
            self._counts[split, "", what] += n
            self._counts[split, language, what] += n

    def told(self, split: str) -> dict[str, Any]:
        """Return the counts of one split: files that were read, their functions, and those without a brief."""
        names = (*_COUNTED, "files_without_grammar", "files_not_parsed")
        languages = sorted({language for s, language, _ in self._counts if s == split and language})
        by_language = {k: {what: self._counts[split, k, what] for what in _COUNTED} for k in languages}
        return {**{what: self._counts[split, "", what] for what in names}, "languages": by_language}


def _code(function: Function, line_no: Any, code: Sequence[str]) -> str:
    """Return the code of a function, line by line, as far as ``MAX_CODE_CHARS``."""
    parts: list[str] = []
    n_chars = 0
    for at in np.searchsorted(line_no, function.lines[:MAX_CODE_CHARS]).tolist():
        if code[at]:
            parts.append(code[at])
            n_chars += len(code[at]) + 1
        if n_chars > MAX_CODE_CHARS:
            break
    return "\n".join(parts)[:MAX_CODE_CHARS]
