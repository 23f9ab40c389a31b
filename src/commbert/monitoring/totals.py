"""What all samples of a stage come to: the figures in its usage record."""

from dataclasses import dataclass
from typing import Any

from commbert.monitoring.energy import EnergyCounter, Gaps, PowerIntegral, Series
from commbert.monitoring.nvml import NOT_THROTTLED, Gpu, Reading

_GIBI = 2**30


@dataclass(frozen=True)
class Energy:
    """Joules, how they were found (``counter``, ``integrated``, ``rapl``), and what is missing from them."""

    joules: float | None
    source: str | None
    reason: str | None


class GpuTotals:
    """Of one GPU.

    Args:
        gap_s: Two samples further apart than this have a gap between them.
    """

    def __init__(self, gpu: Gpu, gap_s: float) -> None:
        self._gpu = gpu
        self._utilization, self._memory, self._power, self._temperature = (Series() for _ in range(4))
        self._counter, self._integral = EnergyCounter(), PowerIntegral(gap_s)
        self._gaps = Gaps(gap_s)
        self._n_clocked = self._n_throttled = self._n_missing = 0
        self._reasons: set[str] = set()
        self._missing: dict[str, str] = {}

    def add(self, now_s: float, reading: Reading) -> None:
        """Take a reading."""
        values = reading.values
        self._utilization.add(values["gpu_utilization_pct"])
        self._memory.add(values["memory_used_gib"])
        self._power.add(values["power_w"])
        self._temperature.add(values["temperature_c"])
        self._counter.add(now_s, values["energy_counter_mj"])
        self._integral.add(now_s, values["power_w"])
        if values["throttle_reasons"] is not None:
            limits = set(values["throttle_reasons"]) - NOT_THROTTLED
            self._n_clocked += 1
            self._n_throttled += bool(limits)
            self._reasons |= limits
        self._missing |= reading.missing
        if all(value is None for value in values.values()):
            self._n_missing += 1
        else:
            self._gaps.add(now_s)

    def energy(self, sampled_s: float, tolerated_s: float) -> Energy:
        """Return the joules; by the counter if it told of any stretch of time.

        Args:
            sampled_s: Between the first and the last sample of the stage.
            tolerated_s: That much less covered is not worth a reason.
        """
        counter, integral = self._counter, self._integral
        source = "counter" if counter.joules is not None else "integrated" if integral.joules is not None else None
        if source is None:
            why = self._missing.get("energy_counter_mj") or self._missing.get("power_w") or "fewer than two readings"
            return Energy(None, None, why)
        reasons = []
        if source == "integrated":
            reasons.append(f"no counter ({self._missing.get('energy_counter_mj', 'fewer than two readings')})")
        if counter.n_resets:
            reasons.append(f"the counter went back {counter.n_resets} times; what it had counted is left out")
        covered_s = counter.covered_s if source == "counter" else integral.covered_s
        if covered_s < sampled_s - tolerated_s:
            reasons.append(f"covers {covered_s:.1f} of {sampled_s:.1f} s")
        joules = counter.joules if source == "counter" else integral.joules
        return Energy(joules, source, "; ".join(reasons) or None)

    def as_dict(self, energy: Energy) -> dict[str, Any]:
        """Return the GPU's entry in the usage record; None where a sensor never answered, with the last reason."""
        return {
            "index": self._gpu.index,
            "name": self._gpu.name,
            "uuid": self._gpu.uuid,
            "memory_gib": self._gpu.memory_gib,
            "mean_utilization_pct": rounded(self._utilization.mean),
            "peak_memory_gib": rounded(self._memory.highest),
            "mean_power_w": rounded(self._power.mean),
            "max_temperature_c": rounded(self._temperature.highest),
            "energy_j": rounded(energy.joules),
            "energy_source": energy.source,
            "energy_reason": energy.reason,
            "throttled_pct": rounded(100.0 * self._n_throttled / self._n_clocked if self._n_clocked else None),
            "throttle_reasons": sorted(self._reasons),
            "missing_samples": self._n_missing,
            "gaps": self._gaps.n,
            "longest_gap_s": rounded(self._gaps.longest_s),
            "missing": dict(sorted(self._missing.items())),
        }


class HostTotals:
    """Of the processes, the node and its CPU packages."""

    def __init__(self) -> None:
        self._rss, self._node_cpu, self._processes = Series(), Series(), Series()
        self._first: dict[str, tuple[float, float]] = {}
        self._last: dict[str, tuple[float, float]] = {}
        self._missing: dict[str, str] = {}
        self._rapl_reason: str | None = None

    def add(self, now_s: float, reading: Reading, rapl_reason: str | None) -> None:
        """Take a reading, with the joules of RAPL in it."""
        values = reading.values
        self._rss.add(values["tree_rss_gib"])
        self._node_cpu.add(values["node_cpu_pct"])
        self._processes.add(values["tree_processes"])
        for name, value in values.items():
            if value is not None:
                self._first.setdefault(name, (now_s, value))
                self._last[name] = (now_s, value)
        self._missing |= {k: v for k, v in reading.missing.items() if k != "tree_cpu_pct"}
        self._rapl_reason = rapl_reason or self._rapl_reason

    def energy(self, sampled_s: float, tolerated_s: float) -> Energy:
        """Return the joules of all CPU packages."""
        grown, covered_s = self._grown("cpu_energy_j")
        if grown is None or not covered_s:
            return Energy(None, None, self._rapl_reason or "fewer than two readings")
        reasons = [self._rapl_reason] if self._rapl_reason else []
        if covered_s < sampled_s - tolerated_s:
            reasons.append(f"covers {covered_s:.1f} of {sampled_s:.1f} s")
        return Energy(grown, "rapl", "; ".join(reasons) or None)

    def as_dict(self) -> dict[str, Any]:
        """Return the entry ``host`` of the usage record."""
        cpu_s, covered_s = self._grown("tree_cpu_s")
        return {
            "mean_cpu_pct": rounded(100.0 * cpu_s / covered_s if cpu_s is not None and covered_s else None),
            "cpu_s": rounded(cpu_s),
            "peak_tree_rss_gib": rounded(self._rss.highest),
            "peak_processes": None if self._processes.highest is None else int(self._processes.highest),
            "mean_node_cpu_pct": rounded(self._node_cpu.mean),
            "disk_read_gib": self._gib("disk_read_bytes"),
            "disk_written_gib": self._gib("disk_written_bytes"),
            "network_received_gib": self._gib("network_received_bytes"),
            "network_sent_gib": self._gib("network_sent_bytes"),
            "missing": dict(sorted(self._missing.items())),
        }

    def _grown(self, name: str) -> tuple[float | None, float]:
        """Return by how much a counter grew, and over how many seconds."""
        if name not in self._first:
            return None, 0.0
        (first_s, first), (last_s, last) = self._first[name], self._last[name]
        return last - first, last_s - first_s

    def _gib(self, name: str) -> float | None:
        grown, _ = self._grown(name)
        return None if grown is None else rounded(grown / _GIBI, 6)


def energy_of_all(gpus: list[Energy], reason: str | None) -> Energy:
    """Return the sum over all GPUs; nothing if one of them is missing, for a part is not the whole.

    Args:
        reason: Why there is no GPU.
    """
    if not gpus:
        return Energy(None, None, reason)
    reasons = [f"GPU {i}: {energy.reason}" for i, energy in enumerate(gpus) if energy.reason]
    told = "; ".join(reasons) or None
    joules = [energy.joules for energy in gpus if energy.joules is not None]
    if len(joules) < len(gpus):
        return Energy(None, None, told)
    return Energy(sum(joules), "counter" if all(e.source == "counter" for e in gpus) else "integrated", told)


def rounded(value: float | None, digits: int = 3) -> float | None:
    """Return a figure for a record."""
    return None if value is None else round(float(value), digits)
