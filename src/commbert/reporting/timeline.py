"""What the devices did while a stage ran: utilisation, power, memory and temperature over time."""

from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from commbert.reporting.escaping import visible
from commbert.reporting.figures import COLOURS, STYLE, svg

_PANELS = (
    ("utilisation (%)", ("gpu_utilization_pct", "node_cpu_pct")),
    ("power (W)", ("power_w", "cpu_power_w")),
    ("memory (GiB)", ("memory_used_gib", "tree_rss_gib")),
    ("temperature (°C)", ("temperature_c",)),
)
"""Panels, and the columns of the table ``monitoring/samples`` that they show: of a GPU, of the host."""
_MOST_POINTS = 600
Array = np.ndarray[Any, np.dtype[np.float64]]


def timeline_figure(samples: pa.Table | None, *, stage: str) -> str | None:
    """Return a panel for each kind of sensor that was read, a line for each device; None where there is no sample.

    Gaps between samples stay gaps.

    Args:
        samples: Table ``monitoring/samples``: a row per time and device, units in the names of the columns; a column
            that is missing or null is a sensor that was not there.
        stage: What was sampled.
    """
    series = [] if samples is None else _series(samples)
    if not series:
        return None
    panels = [title for title, _ in _PANELS if any(s[0] == title for s in series)]
    devices = list(dict.fromkeys(device for _, device, _, _ in series))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 1.8 * len(panels) + 0.6), layout="constrained")
        all_axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for title, axes in zip(panels, all_axes, strict=True):
            for panel, device, x, y in series:
                if panel == title:
                    _line(axes, x, y, visible(device, max_chars=30), COLOURS[devices.index(device) % 6])
            axes.set_ylabel(title)
            axes.set_ylim(bottom=0)
        of_each = {line.get_label(): line for axes in all_axes for line in axes.lines}
        figure.legend(of_each.values(), of_each.keys(), loc="outside upper center", ncols=6)
        all_axes[-1].set_xlabel(f"time since the stage {visible(stage)} began to be sampled (s)")
        told = f"{', '.join(panels)} of {', '.join(devices)} while the stage ran"
        return svg(figure, title=f"Devices during {stage}", description=told)


def _series(samples: pa.Table) -> list[tuple[str, str, Array, Array]]:
    """Return panel, device, seconds since the first sample and values of each sensor that was ever read."""
    if not {"time_unix_s", "device"} <= set(samples.column_names) or not samples.num_rows:
        return []
    at = _numbers(samples, "time_unix_s")
    at = at - at.min()
    devices = np.array(samples["device"].to_pylist())
    found = []
    for device in dict.fromkeys(devices.tolist()):
        here = samples.filter(pa.array(devices == device))
        for title, names in _PANELS:
            for name in names:
                values = _cpu_power(here) if name == "cpu_power_w" else _numbers(here, name)
                if np.isfinite(values).any():
                    found.append((title, str(device), at[devices == device], values))
    return found


def _numbers(samples: pa.Table, name: str) -> Array:
    """Return a column, NaN where it is null or missing."""
    if name not in samples.column_names or pa.types.is_null(samples[name].type):
        return np.full(samples.num_rows, np.nan)
    return np.asarray(samples[name].cast(pa.float64()).to_numpy(), dtype=np.float64)


def _cpu_power(samples: pa.Table) -> Array:
    """Return the mean power since the sample before, from the energy of the CPU packages counted so far."""
    joules, at = _numbers(samples, "cpu_energy_j"), _numbers(samples, "time_unix_s")
    power = np.full(len(joules), np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        power[1:] = np.diff(joules) / np.diff(at)
    # A stage that was stopped and went on counts from 0 again.
    power[~(power >= 0) | ~np.isfinite(power)] = np.nan
    return power


def _line(axes: Axes, x: Array, y: Array, label: str, colour: str) -> None:
    if len(x) > _MOST_POINTS:
        parts = np.array_split(np.arange(len(x)), _MOST_POINTS)
        x = np.array([x[p].mean() for p in parts])
        y = np.array([np.nan if np.isnan(y[p]).all() else np.nanmean(y[p]) for p in parts])
    # A gap of more than five usual intervals is drawn as one: nothing is known of it.
    wide = np.flatnonzero(np.diff(x) > 5 * np.median(np.diff(x))) + 1 if len(x) > 2 else np.array([], dtype=int)
    x, y = np.insert(x, wide, np.nan), np.insert(y, wide, np.nan)
    axes.plot(x, y, color=colour, linewidth=1.3, label=label, marker="o" if len(x) < 30 else "", markersize=3)
