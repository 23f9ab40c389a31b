"""What a comparison of two models is made of: figures with their resamples, rows, and what all measurements share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from commbert.evaluation.bootstrap import Estimate, estimate, mean_resamples
from commbert.evaluation.scores import Draws, between
from commbert.inference.comparedfiles import ComparedFile
from commbert.inference.models import AskedModel
from commbert.provenance import environment

Floats = NDArray[np.float64]
Better = Literal["higher", "lower", ""]
_NO_HEAD = "no trained MLM head"


@dataclass(frozen=True)
class Measured:
    """One figure of one model."""

    draws: Draws
    shown: Estimate


@dataclass(frozen=True)
class Row:
    """One figure of both models."""

    file: str
    kind: str
    figure: str
    better: Better
    """Which way is good; empty where neither is."""
    a: Estimate | None
    b: Estimate | None
    difference: Estimate | None
    """B less A."""
    reason: str = ""
    """Why a figure is missing."""

    @property
    def is_outside_noise(self) -> bool | None:
        """Whether the interval of the difference leaves out 0; None without a difference or an interval."""
        d = self.difference
        return None if d is None or np.isnan(d.low) else bool(d.low > 0 or d.high < 0)

    @property
    def verdict(self) -> str:
        """What B is, of A: better, worse, higher, lower, within noise, equal; empty where nothing can be said."""
        if self.is_outside_noise is None or self.difference is None:
            return ""
        if not self.is_outside_noise:
            return "within noise" if self.difference.low < self.difference.high else "equal"
        way = "higher" if self.difference.value > 0 else "lower"
        if not self.better:
            return way
        return "better" if way == self.better else "worse"

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-ready fields."""
        told = {k: v.as_dict() if isinstance(v, Estimate) else v for k, v in vars(self).items()}
        return {**told, "is_outside_noise": self.is_outside_noise, "verdict": self.verdict}


@dataclass(frozen=True)
class Comparison:
    """All figures, and what they rest on."""

    names: tuple[str, str]
    models: tuple[dict[str, Any], dict[str, Any]]
    rows: list[Row]
    files: list[dict[str, Any]]
    notes: list[str]
    settings: dict[str, Any]
    environment: Mapping[str, Any] = field(default_factory=environment)

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-ready fields."""
        return {
            "a": {"name": self.names[0], **self.models[0]},
            "b": {"name": self.names[1], **self.models[1]},
            "rows": [row.as_dict() for row in self.rows],
            "files": self.files,
            "notes": self.notes,
            "settings": self.settings,
            "environment": dict(self.environment),
        }


@dataclass(frozen=True)
class Case:
    """What all measurements share."""

    models: tuple[AskedModel, AskedModel]
    names: tuple[str, str]
    n_resamples: int
    seed: int
    notes: list[str]

    @property
    def options(self) -> dict[str, int]:
        """How resamples are drawn."""
        return {"n_resamples": self.n_resamples, "seed": self.seed}

    @property
    def has_head(self) -> tuple[bool, bool]:
        """Whether each model has a trained MLM head."""
        return ("mlm_head" not in self.models[0].lacks, "mlm_head" not in self.models[1].lacks)

    @property
    def reason(self) -> str:
        """Why a masked figure is missing."""
        without = [name for name, has in zip(self.names, self.has_head, strict=True) if not has]
        return f"{' and '.join(without)}: {_NO_HEAD}" if without else ""

    def mean(self, values: Floats, clusters: NDArray[np.int64], weights: Floats | None = None) -> Measured:
        """Return a mean over items, or a ratio of sums, resampled by cluster."""
        draws = mean_resamples(values, clusters, weights=weights, **self.options)
        bottom = len(values) if weights is None else float(weights.sum())
        return measured(Draws(float(values.sum()) / bottom, draws, len(values)))


def measured(draws: Draws) -> Measured:
    """Return a figure with its interval."""
    return Measured(draws, estimate(*draws))


Pair = tuple[Measured | None, Measured | None]
"""One figure of both models; None where one has none."""


def row_of(file: ComparedFile, figure: str, better: Better, pair: Pair, reason: str = "") -> Row:
    """Return the row of a figure, with the paired difference of the two."""
    a, b = pair
    shown = [m.shown if m is not None else None for m in pair]
    difference = between(b.draws, a.draws) if a is not None and b is not None else None
    return Row(file.shown, file.kind, figure, better, shown[0], shown[1], difference, reason)
