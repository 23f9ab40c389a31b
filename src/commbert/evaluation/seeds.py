"""Figures over several seeds of training: what varies between items and what varies between seeds, in one interval."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

from commbert.evaluation.bootstrap import estimate
from commbert.evaluation.scores import Draws


@dataclass(frozen=True)
class OverSeeds:
    """A figure, or a difference, over seeds of training."""

    value: float
    """Mean over the seeds."""
    low: float
    high: float
    """95 % interval; of items alone where nothing tells how seeds differ."""
    seed_sd: float | None
    """Standard deviation between seeds (n - 1); None of one seed."""
    n_seeds: int
    n: int
    """Items of the figure."""


class SeedSpread(NamedTuple):
    """How much one training differs from the next by its seed."""

    variance: float
    df: float
    """Degrees of freedom of the variance."""

    def margin(self, n_seeds: int) -> float:
        """Return half the 95 % interval of a mean over so many seeds."""
        return float(stats.t.ppf(0.975, self.df) * np.sqrt(self.variance / n_seeds))


def spread_of(values: Sequence[float]) -> SeedSpread | None:
    """Return the spread of one run's seeds; None of one seed."""
    return SeedSpread(float(np.var(values, ddof=1)), len(values) - 1) if len(values) > 1 else None


def pooled_spread(changes: Sequence[Sequence[float]]) -> SeedSpread | None:
    """Return the spread between seeds of a run's difference to the reference, as all runs of a table show it.

    Three seeds of one run tell little of their spread; runs that differ in one setting are taken to share it. Their
    differences share the reference, too: two of them correlate by 1/2, hence their variances by 1/4, so k runs have
    fewer degrees of freedom than the sum of theirs, by a factor of 1 + (k - 1) / 4.

    Args:
        changes: Per run, its differences to the reference, one per seed. Runs of one seed tell nothing.
    """
    own = [spread for values in changes if (spread := spread_of(values)) is not None]
    if not own:
        return None
    df = sum(spread.df for spread in own)
    variance = sum(spread.variance * spread.df for spread in own) / df
    return SeedSpread(variance, df / (1 + (len(own) - 1) / 4))


def over_seeds(
    ours: Sequence[Draws], theirs: Sequence[Draws] | None = None, *, spread: SeedSpread | None = None
) -> OverSeeds | None:
    """Return the mean of a figure over seeds, or that of its difference to another model's.

    Two intervals become one: that of the items (bootstrap; the same items for all seeds and both models) and that of
    the seeds (Student's t; a bootstrap of three seeds is far too narrow). Their distances to the mean add up as squares
    (Zou & Donner 2008, Construction of confidence limits about effect measures, MOVER).

    Args:
        ours: One per seed.
        theirs: One per seed in the same order, or one for all; None: no difference is taken.
        spread: How seeds differ, where other runs tell it better (``pooled_spread``); None: as these seeds do.

    Returns:
        None if there is nothing, or not all rest on the same number of items.
    """
    if not ours or (theirs is not None and not theirs):
        return None
    if len({d.n for d in (*ours, *(theirs or []))}) > 1:
        return None
    values = np.array([d.value for d in ours])
    resamples = np.stack([d.resamples for d in ours])
    if theirs is not None:
        if len(theirs) not in (1, len(ours)):
            return None
        values = values - np.array([d.value for d in theirs])
        resamples = resamples - np.stack([d.resamples for d in theirs])
    own = spread_of(values.tolist())
    found = estimate(float(values.mean()), resamples.mean(0), ours[0].n)
    known = spread or own
    low, high = found.low, found.high
    if known is not None:
        margin = known.margin(len(values))
        low = found.value - float(np.hypot(max(found.value - low, 0.0), margin))
        high = found.value + float(np.hypot(max(high - found.value, 0.0), margin))
    return OverSeeds(found.value, low, high, float(np.sqrt(own.variance)) if own else None, len(values), found.n)
