"""Which windows and pairs each step reads: a pure function of (seed, step), the same for any number of processes."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from commbert import counters
from commbert.settings.training import TrainingSettings

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Stream:
    """Rows 0 to n_rows - 1 in a new random order every epoch, without end; a batch may span two epochs."""

    name: str
    n_rows: int
    batch_size: int
    seed: int

    def batch(self, step: int) -> tuple[Ints, Ints]:
        """Return (epoch, row) of each sample of a step, steps counted from 0."""
        if not self.n_rows:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        sample = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epoch = sample // self.n_rows
        rows = np.empty(len(sample), np.int64)
        for e in np.unique(epoch):
            here = epoch == e
            rows[here] = _order(self.name, self.n_rows, self.seed, int(e))[sample[here] % self.n_rows]
        return epoch, rows

    @property
    def steps_per_epoch(self) -> int:
        """Steps after which every row was read once."""
        return math.ceil(self.n_rows / self.batch_size)


@lru_cache(maxsize=8)
def _order(name: str, n_rows: int, seed: int, epoch: int) -> Ints:
    return counters.permutation(n_rows, seed, "order", name, epoch)


@dataclass(frozen=True)
class Plan:
    """The streams and how many steps are taken."""

    windows: Stream
    pairs: Stream
    texts: Stream
    """Pairs of texts, beside those of words."""
    n_steps: int
    n_parts: int
    """Least number of micro-batches of a step."""
    steps_per_epoch: int
    """Of the stream that ``training.epoch`` names."""

    def validates_after(self, step: int, every: int | Literal["epoch"]) -> bool:
        """Return whether a validation follows the step, counted from 1; the last one always has one."""
        return step % (self.steps_per_epoch if every == "epoch" else every) == 0 or step == self.n_steps

    def coverage(self) -> dict[str, float]:
        """Return how many times each stream is read: no stream is cut to the shorter one."""
        return {
            f"{s.name}_epochs": self.n_steps * s.batch_size / s.n_rows if s.n_rows else 0.0
            for s in (self.windows, self.pairs, self.texts)
        }


def make_plan(settings: TrainingSettings, *, n_windows: int, n_pairs: int, n_texts: int = 0, world_size: int) -> Plan:
    """Return the plan of a run.

    Args:
        settings: The run's training section.
        n_windows: Rows of the window stream; it is empty if MLM has no weight.
        n_pairs: Rows of the pair stream; it is empty if the contrastive loss has no weight.
        n_texts: Pairs of texts; their stream is empty too without the contrastive loss, or if none are wanted.
        world_size: Processes; matters only with ``batch_per_process``.
    """
    factor = world_size if settings.batch_per_process else 1
    n_windows = n_windows if settings.objectives.has_mlm else 0
    n_pairs = n_pairs if settings.objectives.has_contrastive else 0
    windows = Stream("windows", n_windows, settings.batch_windows * factor, settings.seed)
    pairs = Stream("pairs", n_pairs, settings.batch_pairs * factor, settings.seed)
    texts = Stream("texts", n_texts if settings.reads_texts else 0, settings.batch_texts * factor, settings.seed)
    lengths = {"windows": windows.steps_per_epoch, "pairs": pairs.steps_per_epoch}
    lengths["longer"] = max(lengths.values())
    steps_per_epoch = lengths[settings.epoch] or lengths["longer"]
    n_steps = settings.epochs * steps_per_epoch
    n_steps = min(n_steps, settings.max_steps or n_steps)
    return Plan(windows, pairs, texts, n_steps, settings.micro_batches * factor, steps_per_epoch)


def cut(lengths: Ints, *, n_parts: int, most_tokens: int) -> Ints:
    """Cut sequences into parts of about as many tokens, each a run of neighbours.

    Args:
        lengths: [n] tokens of each sequence.
        n_parts: Least number of parts; some are empty if there are fewer sequences.
        most_tokens: Tokens of a part at most, about: a sequence belongs to the part in which its middle lies, so the
            longest sequence may come on top.

    Returns:
        [parts + 1] edges: part i holds the sequences from edge i to edge i + 1.
    """
    total = int(lengths.sum())
    n = max(n_parts, math.ceil(total / most_tokens))
    # A sequence belongs to the part in which its middle lies.
    middle = np.cumsum(lengths) - lengths / 2
    part = np.minimum((middle * n / max(total, 1)).astype(np.int64), n - 1)
    return np.searchsorted(part, np.arange(n + 1))
