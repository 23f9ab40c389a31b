"""windows: corpus lines to MLM windows, one table per split."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from commbert import tables
from commbert.artifacts import write_json
from commbert.corpus.reading import CorpusLines, read_lines
from commbert.errors import DataError
from commbert.provenance import digest, digest_of_files
from commbert.settings.windows import WindowsSettings
from commbert.tokenization.encoding import encode_lines, load_tokenizer
from commbert.windows import WindowColumns, cut_windows, share_seen


def run(
    settings: WindowsSettings, *, files: Path, lines: Path, tokenizer: Path, out: Mapping[str, Path], summary_out: Path
) -> dict[str, Any]:
    """Cut every split into windows.

    Args:
        settings: The section ``windows``.
        files: Table corpus/files.
        lines: Table corpus/lines.
        tokenizer: The tokenizer folder.
        out: Becomes the table windows of each split.
        summary_out: Becomes counts and leakage (JSON).

    Raises:
        DataError: If the training split gives no window.
    """
    corpus = read_lines(files, lines, column="text")
    loaded = load_tokenizer(tokenizer)
    provenance = {
        "settings": digest(settings.as_json()),
        "inputs": digest_of_files([files, lines, tokenizer / "tokenizer.json"]),
    }
    summary: dict[str, Any] = {"splits": {}, "leakage": {}}
    cut = {split: _cut(settings, corpus, split, loaded) for split in tables.SPLITS}
    if not cut["train"].line_no:
        raise DataError("windows: expected at least one window in the training split, found none. Widen the sources.")
    seen_lines = {corpus.text[i].encode() for i in corpus.of("train")}
    seen_windows = {ids.tobytes() for ids in cut["train"].input_ids}
    for split, windows in cut.items():
        columns = _columns(windows)
        tables.write(out[split], tables.WINDOWS, columns, provenance=provenance)
        summary["splits"][split] = {
            "windows": len(windows.line_no),
            "tokens": int(columns["n_tokens"].sum()),
            "tokens_per_window": float(columns["n_tokens"].mean()) if len(windows.line_no) else 0.0,
            "windows_with_dropped_lines_pct": 100.0 * float(np.mean(columns["n_dropped_lines"] > 0))
            if windows.line_no
            else 0.0,
        }
        if split != "train":
            own = [corpus.text[i].encode() for i in corpus.of(split)]
            summary["leakage"][split] = {
                "lines_seen_in_training_pct": share_seen(own, seen_lines),
                "long_lines_seen_in_training_pct": share_seen([ln for ln in own if len(ln) >= 20], seen_lines),
                "windows_seen_in_training_pct": share_seen([ids.tobytes() for ids in windows.input_ids], seen_windows),
            }
    write_json(summary_out, summary)
    return summary


def _cut(settings: WindowsSettings, corpus: CorpusLines, split: str, tokenizer: Any) -> WindowColumns:
    rows = corpus.of(split)
    encoded = encode_lines(tokenizer, [corpus.text[i] for i in rows])
    windows = cut_windows(
        encoded.ids,
        encoded.offsets,
        corpus.file_id[rows],
        corpus.line_no[rows],
        lines_before=settings.lines_before,
        lines_after=settings.lines_after,
        stride=settings.stride if split == "train" else settings.heldout_stride,
        max_length=settings.max_length,
    )
    limit = settings.max_windows
    if split == "train" and limit is not None and limit < len(windows.line_no):
        rng = np.random.default_rng([settings.seed, 1])
        keep = np.sort(rng.choice(len(windows.line_no), limit, replace=False))
        windows = WindowColumns(*([column[i] for i in keep] for column in vars(windows).values()))
    return windows


def _columns(windows: WindowColumns) -> dict[str, Any]:
    n_tokens = np.array([len(ids) for ids in windows.input_ids], np.uint16)
    return {
        "file_id": windows.file_id,
        "line_no": windows.line_no,
        "first_line": windows.first_line,
        "last_line": windows.last_line,
        "input_ids": tables.list_column(tables.WINDOWS, "input_ids", windows.input_ids),
        "n_tokens": n_tokens,
        "n_dropped_lines": np.array(windows.n_dropped_lines, np.uint8),
    }
