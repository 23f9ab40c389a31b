"""Means, gaps and joules of a series of samples that comes bit by bit, some of them missing."""


class Series:
    """Mean and highest of the values that are there."""

    def __init__(self) -> None:
        self.n, self.peak = 0, 0.0
        self._total = 0.0

    def add(self, value: float | None) -> None:
        """Take a value; None is left out."""
        if value is not None:
            self.peak = value if self.n == 0 else max(self.peak, value)
            self.n += 1
            self._total += value

    @property
    def mean(self) -> float | None:
        """Each sample counts the same."""
        return self._total / self.n if self.n else None

    @property
    def highest(self) -> float | None:
        """None of no value."""
        return self.peak if self.n else None


class Gaps:
    """Stretches between two samples that are longer than they should be."""

    def __init__(self, longest_allowed_s: float) -> None:
        self.n, self.longest_s = 0, 0.0
        self._allowed_s = longest_allowed_s
        self._last_s: float | None = None

    def add(self, now_s: float) -> None:
        """Take the time of a sample."""
        if self._last_s is not None and now_s - self._last_s > self._allowed_s:
            self.n += 1
            self.longest_s = max(self.longest_s, now_s - self._last_s)
        self._last_s = now_s


class EnergyCounter:
    """Joules by a counter of millijoules: over time, the last reading less the first one.

    Readings that are missing lose nothing. A counter that goes back was reset (its driver was loaded anew): what it
    had counted since the reading before is not known and is left out.
    """

    def __init__(self) -> None:
        self.n_resets, self.covered_s = 0, 0.0
        self._millijoules = 0
        self._last: tuple[float, int] | None = None

    def add(self, now_s: float, millijoules: int | None) -> None:
        """Take a reading."""
        if millijoules is None:
            return
        if self._last is not None:
            last_s, last = self._last
            if millijoules < last:
                self.n_resets += 1
            else:
                self._millijoules += millijoules - last
                self.covered_s += now_s - last_s
        self._last = (now_s, millijoules)

    @property
    def joules(self) -> float | None:
        """None without two readings that belong together."""
        return self._millijoules / 1000 if self.covered_s > 0 else None


class PowerIntegral:
    """Joules by the trapezoidal rule over readings of power; stretches longer than allowed are left out."""

    def __init__(self, longest_allowed_s: float) -> None:
        self.covered_s = 0.0
        self._joules = 0.0
        self._allowed_s = longest_allowed_s
        self._last: tuple[float, float] | None = None

    def add(self, now_s: float, power_w: float | None) -> None:
        """Take a reading; None begins a gap."""
        if power_w is not None and self._last is not None:
            last_s, last_w = self._last
            step_s = now_s - last_s
            if step_s <= self._allowed_s:
                self._joules += step_s * (power_w + last_w) / 2
                self.covered_s += step_s
        self._last = None if power_w is None else (now_s, power_w)

    @property
    def joules(self) -> float | None:
        """None without two readings that belong together."""
        return self._joules if self.covered_s > 0 else None
