"""What the stages of a run drew, and what that costs. Where no sensor counted there is no number, but a reason."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from commbert.settings.report import CostSettings

J_PER_KWH = 3.6e6
POINT = 0.01
"""A point of a figure between 0 and 1."""
_NOT_RECORDED = "its usage file holds no energy: the stage ran before energy was measured"

EXCLUDED = (
    "Counted is what the sensors of GPUs and CPU packages count: memory modules, disks, network, fans, power supply "
    "and screens are not, and neither are making the machine, the base model's own pretraining, runs that are not "
    "named here, and the report itself.",
    "The sensors are of whole devices: what else ran on them meanwhile is counted too.",
)


def of_job(usage: Mapping[str, Any], cost: CostSettings) -> dict[str, Any]:
    """Return the energy of one job in J: measured, of it idle, and what it is charged with.

    Args:
        usage: A usage file; one without ``energy`` is of an older version, and counts as not measured.
        cost: Says what the machine draws when idle.
    """
    energy = usage.get("energy")
    if energy is None:
        return _unknown(_NOT_RECORDED)
    idle_w = {"gpu": cost.idle_power_w.gpu, "cpu": cost.idle_power_w.cpu}
    devices = {"gpu": len(usage.get("gpus") or []), "cpu": 1}
    found: dict[str, Any] = {"gpu_j": energy.get("gpu_j"), "cpu_j": energy.get("cpu_j")}
    parts = [kind for kind in ("gpu", "cpu") if found[f"{kind}_j"] is not None]
    # A sensor that counted for a part of the time has a number and a reason.
    reasons = [f"{k.upper()}: {energy[f'{k}_reason']}" for k in ("gpu", "cpu") if energy.get(f"{k}_reason")]
    if not parts:
        return _unknown("; ".join(reasons) or "no sensor, and no reason was recorded")
    known = [kind for kind in parts if idle_w[kind] is not None]
    # A device cannot have drawn less than nothing for the stage, however wrong the idle power was set.
    idle = {k: min((idle_w[k] or 0.0) * devices[k] * usage["wall_s"], found[f"{k}_j"]) for k in known}
    measured = sum(found[f"{kind}_j"] for kind in parts)
    return {
        **found,
        "measured_j": measured,
        "idle_j": sum(idle.values()) if known else None,
        "charged_j": measured - sum(idle.values()),
        "sources": [str(energy[f"{kind}_source"]) for kind in parts if energy.get(f"{kind}_source")],
        "reason": "; ".join(reasons) or None,
    }


def _unknown(reason: str) -> dict[str, Any]:
    none = dict.fromkeys(("gpu_j", "cpu_j", "measured_j", "idle_j", "charged_j"))
    return {**none, "sources": [], "reason": reason}


def of_jobs(jobs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the energy of a stage's jobs together: a sum only where each of them was measured."""
    sums = {key: _sum([job[key] for job in jobs]) for key in ("gpu_j", "cpu_j", "measured_j", "idle_j", "charged_j")}
    reasons = dict.fromkeys(job["reason"] for job in jobs if job["reason"])
    sources = dict.fromkeys(source for job in jobs for source in job["sources"])
    return {**sums, "sources": list(sources), "reason": "; ".join(reasons) or None}


def _sum(values: Sequence[float | None]) -> float | None:
    return None if None in values else float(sum(v for v in values if v is not None))


def priced(joules: float | None, cost: CostSettings) -> dict[str, float | None]:
    """Return energy of the site (kWh), money and CO2 (g) of what a stage is charged with; None stays None.

    Energy of the site is energy of the computers times PUE (The Green Grid's definition, ISO/IEC 30134-2).
    """
    kwh = None if joules is None else joules / J_PER_KWH * cost.pue
    return {
        "kwh": kwh,
        "money": None if kwh is None else kwh * cost.price_per_kwh,
        "co2_g": None if kwh is None else kwh * cost.co2_g_per_kwh,
    }


def cost_section(
    stages: Sequence[Mapping[str, Any]],
    cost: CostSettings,
    *,
    run: str,
    windows: float,
    hard_gain: float | None,
) -> dict[str, Any]:
    """Return the costs of all stages and of the run.

    Args:
        stages: Records of ``read_usage``.
        cost: The section ``report.cost``.
        run: Name of the run; its stage ``train`` is what the figures per window and per point are of.
        windows: Windows that training read, repeats counted.
        hard_gain: Hard metric of the run minus that of the base model, on the test split; None: not measured.
    """
    train = next((s for s in stages if s["stage"] == f"train {run}"), None)
    trained_j = train["energy"]["charged_j"] if train else None
    wh = priced(trained_j, cost)["kwh"]
    points = None if hard_gain is None else hard_gain / POINT
    return {
        "settings": cost.model_dump(mode="json"),
        "stages": [{"stage": s["stage"], **s["energy"], **priced(s["energy"]["charged_j"], cost)} for s in stages],
        "run": _total(stages, cost, lambda s: s["serves"] == "run"),
        "comparison": _total(stages, cost, lambda s: s["serves"] != "run"),
        "per_1000_windows_wh": None if wh is None or not windows else wh * 1000.0 / windows * 1000.0,
        "hard_gain_points": points,
        "per_point_wh": None if wh is None or points is None or points <= 0 else wh * 1000.0 / points,
        "per_point_reason": _why_no_point(wh, points),
        "reasons": _reasons(stages),
        "excluded": [*EXCLUDED, *_integrated(stages), *_overlaps(stages)],
    }


def _total(
    stages: Sequence[Mapping[str, Any]], cost: CostSettings, is_meant: Callable[[Mapping[str, Any]], bool]
) -> dict[str, Any]:
    """Return the sum over the stages that were measured, and how many were; None where none was."""
    meant = [s for s in stages if is_meant(s)]
    there = [s["energy"] for s in meant if s["energy"]["measured_j"] is not None]
    charged = sum(e["charged_j"] for e in there) if there else None
    return {
        "stages": len(meant),
        "measured_stages": len(there),
        "wall_s": round(sum(s["wall_s"] for s in meant), 3),
        "cpu_s": round(sum(s["cpu_s"] for s in meant), 3),
        "measured_j": sum(e["measured_j"] for e in there) if there else None,
        "idle_j": sum(e["idle_j"] for e in there if e["idle_j"] is not None)
        if any(e["idle_j"] is not None for e in there)
        else None,
        "charged_j": charged,
        **priced(charged, cost),
    }


def _why_no_point(wh: float | None, points: float | None) -> str | None:
    if wh is None:
        return "the energy of training was not measured"
    if points is None:
        return "the hard metric was not measured for both the run and the base model"
    return None if points > 0 else "the run gained no point over the base model"


def _reasons(stages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return each reason for a missing figure with the number of stages that give it, the commonest first."""
    found: dict[str, int] = {}
    for s in stages:
        if s["energy"]["reason"]:
            found[s["energy"]["reason"]] = found.get(s["energy"]["reason"], 0) + 1
    return [{"reason": reason, "stages": n} for reason, n in sorted(found.items(), key=lambda item: -item[1])]


def _integrated(stages: Sequence[Mapping[str, Any]]) -> list[str]:
    n = sum("integrated" in s["energy"]["sources"] for s in stages)
    if not n:
        return []
    return [f"In {n} stages a GPU has no energy counter: its power samples were integrated, which is less exact."]


def _overlaps(stages: Sequence[Mapping[str, Any]]) -> list[str]:
    there = sorted((s for s in stages if s["energy"]["measured_j"] is not None), key=lambda s: s["began_unix_s"])
    ends, n = 0.0, 0
    for s in there:
        together = s["wall_s"] > s["ended_unix_s"] - s["began_unix_s"] + 1.0  # its own jobs, one for each shard
        n += s["began_unix_s"] < ends or together
        ends = max(ends, s["ended_unix_s"])
    if not n:
        return []
    return [f"{n} stages ran while another job did: if on the same machine, the sums count that energy twice."]
