"""The record of a training: one JSON line per step and per validation, and what the user sees of it.

Figures of a step stay on the device until the host has a reason to wait for it.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from commbert.artifacts import disk_full_named
from commbert.training.batches import StepBatch
from commbert.training.memory import memory_figures
from commbert.training.progress import TrainingProgress
from commbert.training.trackers import Tracker

MEASURED = (
    "elapsed_s",
    "step_s",
    "tokens_per_s",
    "padded_tokens_per_s",
    "mfu_pct",
    "memory_gib",
    "peak_memory_gib",
)
"""What differs from one training to the next although nothing else does."""


class Record:
    """A JSONL file on the first process, nothing elsewhere; the bar on both."""

    def __init__(
        self,
        path: Path | None,
        n_bytes: int,
        progress: TrainingProgress,
        *,
        device: torch.device,
        matmul_tflops: float | None = None,
        trackers: Sequence[Tracker] = (),
    ) -> None:
        """Go on after ``n_bytes``: rows after the checkpoint that training resumes from are cut off.

        Args:
            path: The file; None on all processes but the first.
            n_bytes: What stays of it.
            progress: Shows the last row.
            device: Whose memory is told.
            matmul_tflops: Of the devices of all processes together; None: not measured.
            trackers: Get the same rows.
        """
        self._path, self._progress = path, progress
        self._device, self._matmul_tflops, self._trackers = device, matmul_tflops, trackers
        self._file: BinaryIO | None = None
        self._pending: list[tuple[dict[str, Any], Tensor]] = []
        self._since_s = 0.0
        self.last: dict[str, Any] = {}
        """The last step that was written."""
        self._validated = ""
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            # Unbuffered: each row is there for a reader at once, and nothing is left over to fail at the end.
            self._file = path.open("r+b", buffering=0)
            self._file.truncate(n_bytes)
            self._file.seek(n_bytes)

    def begin(self, elapsed_s: float) -> None:
        """Say when the next step begins: what came before is none of its time."""
        self._since_s = elapsed_s

    def step(self, row: dict[str, Any], figures: Tensor) -> None:
        """Keep a step's row, and its figures where they are."""
        self._pending.append((row, figures))

    def read(self, elapsed_s: float) -> list[tuple[dict[str, Any], list[float]]]:
        """Wait for the device; return the rows since the last time, with their times, and their figures."""
        if not self._pending:
            return []
        figures: list[list[float]] = torch.stack([f for _, f in self._pending]).tolist()
        step_s = (elapsed_s - self._since_s) / len(self._pending)
        memory = memory_figures(self._device)
        rows = []
        for i, (row, _) in enumerate(self._pending, start=1):
            times = {"elapsed_s": round(self._since_s + i * step_s, 3), **self._speeds(row, max(step_s, 1e-9))}
            rows.append({**row, **times, **memory})
        self._pending, self._since_s = [], elapsed_s
        return list(zip(rows, figures, strict=True))

    def _speeds(self, row: dict[str, Any], step_s: float) -> dict[str, float | None]:
        """Return what a step's work is over its time."""
        possible = self._matmul_tflops
        return {
            "step_s": round(step_s, 5),
            "tokens_per_s": round(row["tokens"] / step_s, 1),
            "padded_tokens_per_s": round(row["padded_tokens"] / step_s, 1),
            "mfu_pct": None if possible is None else round(100.0 * row["model_flop"] / step_s / (possible * 1e12), 2),
        }

    def write(self, row: dict[str, Any]) -> None:
        """Write a row."""
        if row["event"] == "step":
            self.last = row
            self._progress.update(row["step"], _figures(row) + self._validated)
        else:
            self._validated = _validation_figures(row)
        if self._file is not None and self._path is not None:
            with disk_full_named(self._path):
                self._file.write(json.dumps(row, allow_nan=False).encode() + b"\n")
        for tracker in self._trackers:
            tracker.add(row)

    def synced(self) -> int:
        """Write through to the disk and return the length."""
        if self._file is None or self._path is None:
            return 0
        with disk_full_named(self._path):
            os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def step_row(batch: StepBatch, *, learning_rate: float, model_flop: int) -> dict[str, Any]:
    """Return what is known of a step before it is computed: counts of the whole step, of all processes together.

    ``padded_tokens`` are what its micro-batches would hold if they were padded, each to its longest sequence;
    ``padding_saved_pct`` is the share of them that is padding, which is never made here.
    """
    n_padded = int(batch.work.padded_tokens.sum())
    return {
        "event": "step",
        "step": batch.step + 1,
        "learning_rate": learning_rate,
        "tokens": batch.n_tokens,
        "padded_tokens": n_padded,
        "padding_saved_pct": 100.0 * (1.0 - batch.n_tokens / n_padded) if n_padded else None,
        "model_flop": model_flop,
        "hidden_tokens": batch.n_hidden_tokens,
        "sentence_pairs": batch.n_sentence_pairs,
        "pair_terms": batch.n_terms,
        "words": batch.n_words,
        "negatives_per_anchor": batch.negatives_per_anchor,
        "masked_out_pct": batch.masked_out_pct,
        "pair_weight": batch.pair_weight,
    }


def _figures(row: dict[str, Any]) -> str:
    parts = [f"loss {row['loss']:.3f}"]
    parts += [
        f"{name} {row[key]:.3f}"
        for name, key in (("mlm", "mlm_loss"), ("pairs", "contrastive_loss"), ("nsp", "nsp_loss"))
        if row[key]
    ]
    memory = [f"{row['memory_gib']:.1f} GiB"] if row.get("memory_gib") is not None else []
    return ", ".join([*parts, f"{row['tokens_per_s']:,.0f} tokens/s", *memory])


def _validation_figures(row: dict[str, Any]) -> str:
    """Return the hard figures of the last validation, which stay in the line until the next one."""
    names = (("novel AUC", "auc_frequency_matched_novel"), ("MRR", "retrieval_mrr"), ("NSP accuracy", "nsp_accuracy"))
    parts = [f"{name} {row[key]:.3f}" for name, key in names if row.get(key) is not None]
    return f"; validation: {', '.join(parts)}" if parts else ""
