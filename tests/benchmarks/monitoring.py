"""What the sampler beside a stage costs: CPU seconds per wall second, with it and without.

    python tests/benchmarks/monitoring.py [--children 8] [--seconds 60] [--rounds 3] [--out FILE.json]

This process waits, with idle children below it, in turns with the sampler and without; what it takes more with it, by
the kernel's count (getrusage, of this process), is the sampler's. The sampler's own count of its thread stands beside
it, and so does what starting and ending it takes. GPUs are those of the machine. Writes FILE.json and FILE.md.
"""

import argparse
import datetime
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from commbert.artifacts import write_json, write_text
from commbert.monitoring import machine, monitored
from commbert.provenance import commit, versions

MOST_PCT = 1.0
"""Of a core, at an interval of 1 s."""


def main() -> int:
    args = arguments()
    children = [
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) for _ in range(args.children)
    ]
    try:
        time.sleep(1.0)  # they start
        turns = [turn(interval_s, args.seconds) for _ in range(args.rounds) for interval_s in (None, *args.intervals)]
    finally:
        for child in children:
            child.communicate(b"\n")
    report = {"about": about(args), "turns": turns, "figures": figures(turns, args.intervals)}
    write_json(args.out, report)
    write_text(args.out.with_suffix(".md"), markdown(report))
    print(markdown(report))
    at_1_s = [f["cpu_pct"] for f in report["figures"] if f["interval_s"] == 1.0]
    return int(any(pct >= MOST_PCT for pct in at_1_s))


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--children", type=int, default=8, help="processes below this one")
    parser.add_argument("--seconds", type=float, default=60.0, help="of a turn")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each interval, and without the sampler")
    parser.add_argument("--intervals", type=lambda s: [float(x) for x in s.split(",")], default=[1.0, 0.1])
    parser.add_argument("--out", type=Path, default=Path("reports/benchmark_monitoring.json"))
    return parser.parse_args()


def about(args: argparse.Namespace) -> dict[str, Any]:
    """Return what the figures were measured on and with."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        "children": args.children,
        "processes_of_the_node": len(psutil.pids()),
        "load": os.getloadavg()[0],
        "seconds": args.seconds,
        "rounds": args.rounds,
    }


def turn(interval_s: float | None, seconds: float) -> dict[str, Any]:
    """Wait, with the sampler or (None) without; return the CPU seconds, of the waiting and of start and end."""
    if interval_s is None:
        began = cpu_s()
        time.sleep(seconds)
        return {"interval_s": None, "waiting_cpu_s": cpu_s() - began, "wall_s": seconds}
    with tempfile.TemporaryDirectory() as folder:
        before = cpu_s()
        with monitored(Path(folder) / "x.samples.parquet", interval_s=interval_s) as monitor:
            time.sleep(0.05)  # the first sample
            began = cpu_s()
            time.sleep(seconds)
            waiting = cpu_s() - began
        found = monitor.as_dict()
        return {
            "interval_s": interval_s,
            "waiting_cpu_s": waiting,
            "wall_s": seconds,
            "start_and_end_cpu_s": cpu_s() - before - waiting,
            "thread_cpu_s": found["monitoring"]["sampler_cpu_s"],
            "samples": found["monitoring"]["samples"],
            "gaps": found["monitoring"]["gaps"],
            "processes": found["host"]["peak_processes"],
            "bytes_per_sample": (Path(folder) / "x.samples.parquet").stat().st_size / found["monitoring"]["samples"],
        }


def cpu_s() -> float:
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime


def figures(turns: list[dict[str, Any]], intervals: list[float]) -> list[dict[str, Any]]:
    """Return medians over the rounds for each interval."""
    without = median(t["waiting_cpu_s"] / t["wall_s"] for t in turns if t["interval_s"] is None)
    found = []
    for interval_s in intervals:
        mine = [t for t in turns if t["interval_s"] == interval_s]
        found.append(
            {
                "interval_s": interval_s,
                "cpu_pct": 100 * (median(t["waiting_cpu_s"] / t["wall_s"] for t in mine) - without),
                "most_cpu_pct": 100 * (max(t["waiting_cpu_s"] / t["wall_s"] for t in mine) - without),
                "thread_cpu_pct": 100 * median(t["thread_cpu_s"] / t["wall_s"] for t in mine),
                "start_and_end_cpu_s": median(t["start_and_end_cpu_s"] for t in mine),
                "bytes_per_sample": median(t["bytes_per_sample"] for t in mine),
            }
        )
    return found


def markdown(report: dict[str, Any]) -> str:
    """Return the figures as a table."""
    about, rows = report["about"], report["figures"]
    lines = [
        "# What sampling costs\n",
        f"{about['rounds']} turns of {about['seconds']:.0f} s with {about['children']} processes below the sampled one "
        f"({about['processes_of_the_node']} on the node, {len(about['machine']['gpus'])} GPUs), on "
        f"{about['machine']['cpu']}, {about['date'][:10]}, load {about['load']:.1f}: CPU time of the process with the "
        "sampler less that without, medians.\n",
        "| interval, s | CPU, % of a core | most | its thread says | start and end, CPU s | bytes a sample |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row['interval_s']:g} | {row['cpu_pct']:.2f} | {row['most_cpu_pct']:.2f} | {row['thread_cpu_pct']:.2f} | "
        f"{row['start_and_end_cpu_s']:.2f} | {row['bytes_per_sample']:.0f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
