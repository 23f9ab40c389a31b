"""Joules, gaps and means against oracles that look at the whole series at once."""

from fractions import Fraction

import numpy as np
import pytest

from commbert.monitoring.energy import EnergyCounter, Gaps, PowerIntegral, Series
from commbert.monitoring.nvml import COLUMNS, Gpu, Reading
from commbert.monitoring.rapl import Rapl
from commbert.monitoring.totals import Energy, GpuTotals, HostTotals, energy_of_all
from fake_nvml import Clock


def filled(meter, series):
    for now, value in series:
        meter.add(now, value)
    return meter


def some(rng, n, missing=0.3):
    """Times with gaps in them, and values of which some are missing."""
    times = np.cumsum(rng.choice([1.0, 1.25, 4.0], n, p=[0.5, 0.3, 0.2]))
    return times.tolist(), (rng.random(n) < missing).tolist()


@pytest.mark.parametrize("seed", range(20))
def test_energy_by_the_counter_is_its_last_reading_less_its_first(seed):
    rng = np.random.default_rng([seed, 1])
    times, is_missing = some(rng, 50)
    readings = np.cumsum(rng.integers(0, 10**9, 50)).tolist()
    there = [r for r, m in zip(readings, is_missing, strict=True) if not m]
    shown = [None if m else r for r, m in zip(readings, is_missing, strict=True)]
    counter = filled(EnergyCounter(), zip(times, shown, strict=True))
    assert counter.joules == (there[-1] - there[0]) / 1000
    assert counter.n_resets == 0


@pytest.mark.parametrize("seed", range(20))
def test_a_counter_that_was_reset_gives_what_each_stretch_counted(seed):
    rng = np.random.default_rng([seed, 2])
    stretches = [(1000 + np.cumsum(rng.integers(0, 9, n))).tolist() for n in rng.integers(1, 6, 4)]
    stretches = [[v - 1000 * (i + 1) + 10_000 for v in s] for i, s in enumerate(stretches)]
    readings = [(float(i), v) for i, v in enumerate(v for s in stretches for v in s)]
    counter = filled(EnergyCounter(), readings)
    assert counter.n_resets == 3
    expected = sum(s[-1] - s[0] for s in stretches)
    assert (counter.joules or 0.0) == pytest.approx(expected / 1000)
    assert counter.covered_s == sum(len(s) - 1 for s in stretches)


def test_a_counter_bridges_samples_that_are_missing():
    counter = filled(EnergyCounter(), [(0.0, 5), (1.0, None), (90.0, None), (100.0, 2005)])
    assert (counter.joules, counter.covered_s) == (2.0, 100.0)


@pytest.mark.parametrize("readings", [[], [(0.0, None)], [(0.0, 7)], [(0.0, 7), (1.0, None)], [(0.0, 7), (1.0, 3)]])
def test_a_counter_without_two_readings_that_belong_together_tells_nothing(readings):
    assert filled(EnergyCounter(), readings).joules is None


@pytest.mark.parametrize("seed", range(20))
def test_integrated_energy_is_exact_with_gaps_left_out(seed):
    rng = np.random.default_rng([seed, 3])
    times, is_missing = some(rng, 60)
    powers = [None if m else float(p) for p, m in zip(rng.integers(20, 700, 60), is_missing, strict=True)]
    integral = filled(PowerIntegral(1.5), zip(times, powers, strict=True))
    expected = covered = Fraction(0)
    for i in range(59):
        step = Fraction(times[i + 1]) - Fraction(times[i])
        if powers[i] is not None and powers[i + 1] is not None and step <= Fraction(3, 2):
            expected += step * (Fraction(powers[i]) + Fraction(powers[i + 1])) / 2
            covered += step
    assert integral.joules == pytest.approx(float(expected), rel=1e-12)
    assert integral.covered_s == pytest.approx(float(covered))


def test_constant_power_is_power_times_time():
    assert filled(PowerIntegral(1.5), [(t / 2, 300.0) for t in range(21)]).joules == pytest.approx(3000.0)


@pytest.mark.parametrize("readings", [[], [(0.0, 5.0)], [(0.0, 5.0), (9.0, 5.0)], [(0.0, 5.0), (1.0, None)]])
def test_no_stretch_of_power_gives_no_energy(readings):
    assert filled(PowerIntegral(1.5), readings).joules is None


def test_gaps_are_counted_and_the_longest_is_kept():
    gaps = Gaps(1.5)
    for now in (0.0, 1.0, 2.5, 5.0, 6.0, 9.5):
        gaps.add(now)
    assert (gaps.n, gaps.longest_s) == (2, 3.5)


def test_mean_and_peak_leave_out_what_is_missing():
    series = Series()
    assert (series.mean, series.highest) == (None, None)
    for value in (None, -4.0, -1.0, None, -10.0):
        series.add(value)
    assert (series.mean, series.highest) == (-5.0, -1.0)


# One GPU.


def reading(**values):
    return Reading(
        {**dict.fromkeys(COLUMNS), **values}, {name: "Not Supported" for name in COLUMNS if name not in values}
    )


def gpu_totals(readings, gap_s=1.5):
    totals = GpuTotals(Gpu(3, "GPU-a", "Fake", 80.0), gap_s)
    for now, one in readings:
        totals.add(now, one)
    return totals


def test_the_figures_of_a_gpu_are_those_of_its_samples():
    readings = [
        (0.0, reading(gpu_utilization_pct=10.0, memory_used_gib=4.0, power_w=100.0, temperature_c=40.0)),
        (1.0, reading(gpu_utilization_pct=30.0, memory_used_gib=9.0, power_w=300.0, temperature_c=60.0)),
        (2.0, reading(gpu_utilization_pct=50.0, memory_used_gib=2.0, power_w=200.0, temperature_c=50.0)),
    ]
    totals = gpu_totals(readings)
    energy = totals.energy(2.0, 1.5)
    assert energy == Energy(450.0, "integrated", "no counter (Not Supported)")
    found = totals.as_dict(energy)
    expected = {"index": 3, "name": "Fake", "uuid": "GPU-a", "memory_gib": 80.0, "mean_utilization_pct": 30.0}
    expected |= {"peak_memory_gib": 9.0, "mean_power_w": 200.0, "max_temperature_c": 60.0, "energy_j": 450.0}
    expected |= {"energy_source": "integrated", "throttled_pct": None, "throttle_reasons": [], "missing_samples": 0}
    assert {name: found[name] for name in expected} == expected
    assert found["missing"]["energy_counter_mj"] == "Not Supported"


def test_the_counter_goes_before_the_integral():
    readings = [(float(t), reading(power_w=999.0, energy_counter_mj=1000 * t)) for t in range(5)]
    assert gpu_totals(readings).energy(4.0, 1.5) == Energy(4.0, "counter", None)


def test_energy_that_does_not_cover_the_stage_says_so():
    counted = gpu_totals([(0.0, reading(energy_counter_mj=0)), (5.0, reading(energy_counter_mj=9000))])
    assert counted.energy(20.0, 1.5) == Energy(9.0, "counter", "covers 5.0 of 20.0 s")
    assert counted.energy(6.5, 1.5).reason is None


def test_a_reset_is_in_the_reason():
    readings = [(float(i), reading(energy_counter_mj=v)) for i, v in enumerate([0, 5000, 10, 2010])]
    energy = gpu_totals(readings).energy(3.0, 1.5)
    assert (energy.joules, energy.source) == (7.0, "counter")
    assert energy.reason == "the counter went back 1 times; what it had counted is left out"


def test_a_gpu_that_tells_no_energy_gives_null_and_the_reason():
    energy = gpu_totals([(0.0, reading()), (1.0, reading())]).energy(1.0, 1.5)
    assert energy == Energy(None, None, "Not Supported")


def test_time_without_readings_is_a_gap_of_the_gpu():
    readings = [(t, reading(power_w=5.0) if t in (0.0, 1.0, 5.0) else reading()) for t in map(float, range(6))]
    found = gpu_totals(readings).as_dict(Energy(None, None, None))
    assert (found["missing_samples"], found["gaps"], found["longest_gap_s"]) == (3, 1, 4.0)


def test_throttled_is_the_share_of_samples_with_a_limit_met_at_work():
    reasons = [(), ("gpu_idle",), ("sw_power_cap", "gpu_idle"), ("hw_slowdown",), None]
    readings = [(float(i), reading() if r is None else reading(throttle_reasons=r)) for i, r in enumerate(reasons)]
    found = gpu_totals(readings).as_dict(Energy(None, None, None))
    assert (found["throttled_pct"], found["throttle_reasons"]) == (50.0, ["hw_slowdown", "sw_power_cap"])


def test_the_energy_of_all_gpus_is_the_sum_or_nothing():
    counter, integrated = Energy(5.0, "counter", None), Energy(7.0, "integrated", "no counter (x)")
    none = Energy(None, None, "lost")
    assert energy_of_all([], "no driver") == Energy(None, None, "no driver")
    assert energy_of_all([counter, counter], None) == Energy(10.0, "counter", None)
    assert energy_of_all([counter, integrated], None) == Energy(12.0, "integrated", "GPU 1: no counter (x)")
    assert energy_of_all([none, counter], None) == Energy(None, None, "GPU 0: lost")


# CPU packages.


class Powercap:
    def __init__(self, folder, clock, range_uj=10**12):
        self.folder, self.clock, self.range_uj = folder, clock, range_uj
        folder.mkdir(exist_ok=True)

    def zone(self, number, name, energy_uj):
        path = self.folder / f"intel-rapl:{number}"
        path.mkdir(exist_ok=True)
        (path / "name").write_text(f"{name}\n")
        (path / "max_energy_range_uj").write_text(f"{self.range_uj}\n")
        (path / "energy_uj").write_text(f"{energy_uj}\n")
        return path / "energy_uj"

    def rapl(self):
        return Rapl(self.folder, clock=self.clock)


@pytest.fixture
def powercap(tmp_path):
    return Powercap(tmp_path / "powercap", Clock())


def test_only_packages_count_and_all_of_them(powercap):
    for number, name in (("0", "package-0"), ("1", "package-1"), ("2", "psys"), ("0:0", "core"), ("0:1", "dram")):
        powercap.zone(number, name, 1_000_000)
    rapl = powercap.rapl()
    assert rapl.read() == 0.0
    for number, name in (("0", "package-0"), ("1", "package-1"), ("2", "psys"), ("0:0", "core"), ("0:1", "dram")):
        powercap.zone(number, name, 3_500_000)
    powercap.clock.now += 1
    assert (rapl.read(), rapl.reason) == (5.0, None)


@pytest.mark.parametrize("seed", range(10))
def test_a_counter_that_comes_round_loses_nothing(powercap, seed):
    rng = np.random.default_rng([seed, 4])
    powercap.range_uj = 5_000_000_000
    total = int(rng.integers(0, powercap.range_uj))
    first = total
    powercap.zone("0", "package-0", total)
    rapl = powercap.rapl()
    rapl.read()
    for step in rng.integers(0, 4_900_000_000, 40).tolist():
        total += step
        powercap.zone("0", "package-0", total % powercap.range_uj)
        powercap.clock.now += 4.9
        found = rapl.read()
    assert found == pytest.approx((total - first) / 1e6)
    assert rapl.reason is None


def test_a_gap_in_which_it_may_have_come_round_twice_is_left_out_and_said(powercap):
    powercap.range_uj = 1_000_000_000
    energy = powercap.zone("0", "package-0", 0)
    rapl = powercap.rapl()
    rapl.read()
    energy.write_text("500000000")
    powercap.clock.now += 1.0
    assert rapl.read() == 0.0
    assert rapl.reason == "1 gaps in which the counter may have come round twice are left out"
    energy.write_text("600000000")
    powercap.clock.now += 0.9
    assert rapl.read() == 100.0


def test_a_package_that_cannot_be_read_for_a_while_is_a_gap_with_a_reason(powercap):
    energy = powercap.zone("0", "package-0", 0)
    other = powercap.zone("1", "package-1", 0)
    rapl = powercap.rapl()
    rapl.read()
    energy.unlink()
    other.write_text("1000000")
    powercap.clock.now += 1
    assert rapl.read() is None
    assert rapl.reason == f"{energy}: No such file or directory"
    energy.write_text("3000000")
    powercap.clock.now += 1
    assert (rapl.read(), rapl.reason) == (4.0, None)


@pytest.mark.parametrize("content", ["", "x", "-5", "1.5", "٣"])
def test_a_counter_that_is_no_number_is_a_reason(powercap, content):
    energy = powercap.zone("0", "package-0", 0)
    rapl = powercap.rapl()
    energy.write_text(content)
    assert rapl.read() is None
    assert "expected a number" in rapl.reason


def test_what_only_root_may_read_is_said_so(powercap, monkeypatch):
    energy = powercap.zone("0", "package-0", 0)
    rapl = powercap.rapl()

    def refuse(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(energy), "read_text", refuse)
    assert rapl.read() is None
    assert rapl.reason == f"{energy}: permission denied (root only, since CVE-2020-8694)"


@pytest.mark.parametrize("make", [False, True])
def test_a_machine_without_rapl_says_so(powercap, make):
    if make:
        powercap.zone("0", "psys", 0)
    else:
        powercap.folder.rmdir()
    rapl = powercap.rapl()
    assert rapl.read() is None
    assert "no CPU package" in rapl.reason


def host_totals(series, reason=None):
    totals = HostTotals()
    for now, values in series:
        empty = dict.fromkeys(("tree_rss_gib", "node_cpu_pct", "tree_processes"))
        totals.add(now, Reading({**empty, **values}), reason)
    return totals


def test_energy_of_the_packages_is_from_the_first_reading_to_the_last():
    totals = host_totals([(0.0, {"cpu_energy_j": None}), (1.0, {"cpu_energy_j": 5.0}), (4.0, {"cpu_energy_j": 65.0})])
    assert totals.energy(4.0, 1.5) == Energy(60.0, "rapl", None)
    assert totals.energy(9.0, 1.5) == Energy(60.0, "rapl", "covers 3.0 of 9.0 s")


def test_without_readings_the_packages_give_null_and_the_reason():
    assert host_totals([(0.0, {"cpu_energy_j": None})], "hidden").energy(0.0, 1.5) == Energy(None, None, "hidden")


def test_the_cpu_share_is_cpu_seconds_by_seconds():
    series = [(0.0, {"tree_cpu_s": 0.0}), (2.0, {"tree_cpu_s": 3.0}), (8.0, {"tree_cpu_s": 20.0})]
    found = host_totals(series).as_dict()
    assert (found["cpu_s"], found["mean_cpu_pct"]) == (20.0, 250.0)


def test_bytes_become_gib_and_peaks_are_the_highest():
    series = [
        (0.0, {"disk_read_bytes": 0, "tree_rss_gib": 1.0, "tree_processes": 1}),
        (1.0, {"disk_read_bytes": 2**29, "tree_rss_gib": 3.0, "tree_processes": 9}),
        (2.0, {"disk_read_bytes": 2**30, "tree_rss_gib": 2.0, "tree_processes": 2}),
    ]
    found = host_totals(series).as_dict()
    assert (found["disk_read_gib"], found["peak_tree_rss_gib"], found["peak_processes"]) == (1.0, 3.0, 9)
    assert found["disk_written_gib"] is None
