"""Weak scaling of the data stages: N times the corpus on N processes, N times the shards, should take as long as one.

    python tests/benchmarks/scaling.py [--lines 1000000] [--processes 1,2,4] [--shards 2] [--rounds 3] [--work DIR]

One process has ``--lines`` lines in ``--shards`` shards; N processes have N times both, run ``snakemake --cores N
data`` and are pinned to N cores. The folder of the base model is made before, not timed. The sizes take turns. Of a run
there is the whole wall time, the same less the time in which no job ran (Snakemake's own: reading the rules, planning,
starting jobs, checking outputs), and of every job its wall and CPU seconds, imports included: each process writes down
itself when its Python had started, when it ended, and what CPU time it had taken.

The efficiency is T(1) / T(N) of the medians. ``machine`` is the same figure for N copies of one job (the lexing of a
shard) side by side, which share nothing but the machine: the data stages cannot do better. Writes FILE.json (every run
and job) and FILE.md. Times are what they are: nothing is asserted.
"""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import data_corpus
import pyarrow.parquet as pq
from data import about, ours
from data_ours import ROOT
from data_process import Ran, run
from data_report import setting, table

from commbert.artifacts import read_json, write_json, write_text

SHARDED = ("ingest", "lex", "windows", "draw")
"""Stages with a job for each shard; the others gather, and run alone or beside few."""
WARM_UP_LINES = 20_000
TO_REACH = 0.85
RECORDER = """
import atexit, json, os, sys, time
if len(sys.orig_argv) > 2 and sys.orig_argv[1].endswith("/commbert"):
    began = time.time()

    def note():
        path = os.path.join(os.path.dirname(__file__), f"{os.getpid()}.json")
        with open(path, "w") as file:
            cpu_s = sum(os.times()[:4])
            json.dump({"stage": sys.orig_argv[2], "began": began, "ended": time.time(), "cpu_s": cpu_s}, file)

    atexit.register(note)
"""
"""Runs first in every Python process."""


@dataclass(frozen=True)
class Job:
    """One job of a run."""

    stage: str
    began_s: float
    """Since the start of the command."""
    wall_s: float
    cpu_s: float


@dataclass(frozen=True)
class Run:
    """One run of the workflow."""

    processes: int
    wall_s: float
    cpu_s: float
    """Of everything, Snakemake included."""
    nothing_to_do_s: float
    """The same command again: Snakemake's time before and after jobs."""
    load_before: float
    jobs: list[Job]
    lines_of_shards: list[int]

    def seconds_with(self, n_jobs: Iterable[int]) -> float:
        """Return the time in which as many jobs ran at once as one of the numbers given."""
        ends = [(job.began_s, 1) for job in self.jobs] + [(job.began_s + job.wall_s, -1) for job in self.jobs]
        wanted, running, before, found = set(n_jobs), 0, 0.0, 0.0
        for moment, change in sorted(ends):
            found += (moment - before) * (running in wanted)
            running, before = running + change, moment
        return found

    def figures(self) -> dict[str, float]:
        """Return what the table shows of a run, in seconds but for the shards' imbalance."""
        busy_s = self.seconds_with(range(1, len(self.jobs) + 1))
        gathers = [job for job in self.jobs if job.stage not in SHARDED]
        in_jobs = sum(job.wall_s for job in self.jobs)
        return {
            "wall_s": self.wall_s,
            "busy_s": busy_s,
            "snakemake_s": self.wall_s - busy_s,
            "nothing_to_do_s": self.nothing_to_do_s,
            "one_job_alone_s": self.seconds_with([1]),
            "gathered_s": sum(job.wall_s for job in gathers),
            "idle_share": 1 - in_jobs / (self.processes * busy_s),
            "cpu_s": self.cpu_s,
            "jobs_cpu_s": sum(job.cpu_s for job in self.jobs),
            "gathered_cpu_s": sum(job.cpu_s for job in gathers),
            "largest_shard": max(self.lines_of_shards) * len(self.lines_of_shards) / sum(self.lines_of_shards),
        }

    def stages(self) -> dict[str, dict[str, float]]:
        """Return of each stage its jobs, their wall seconds for each process that shares them, and CPU seconds."""
        found: dict[str, dict[str, float]] = {}
        for stage in dict.fromkeys(job.stage for job in sorted(self.jobs, key=lambda job: job.began_s)):
            jobs = [job for job in self.jobs if job.stage == stage]
            shared_by = self.processes if stage in SHARDED else 1
            walls, cpu_s = [job.wall_s for job in jobs], sum(job.cpu_s for job in jobs)
            found[stage] = {"jobs": len(jobs), "wall_s": sum(walls) / shared_by, "cpu_s": cpu_s}
        return found


def main() -> None:
    args = _arguments()
    corpora = {n: data_corpus.build_scaled(args.work, n * args.lines, args.text) for n in args.processes}
    small = data_corpus.build_scaled(args.work, WARM_UP_LINES, args.text)
    _workflow(args, small, 1)
    runs: list[Run] = []
    for number in range(1, args.rounds + 1):
        for n, corpus in corpora.items():
            runs.append(_workflow(args, corpus, n))
            shown = {name: round(value, 2) for name, value in runs[-1].figures().items()}
            print(f"round {number}, {n} process(es): {shown}", flush=True)
    report = {
        "about": about(args) | {"load_before": [r.load_before for r in runs]},
        "lines_per_process": args.lines,
        "shards_per_process": args.shards,
        "shard_by": args.shard_by,
        "corpora": {n: read_json(folder.with_suffix(".json")) for n, folder in corpora.items()},
        "machine": _machine(args, small),
        **_summary(runs),
        "runs": [asdict(r) | {"figures": r.figures()} for r in runs],
    }
    write_json(args.out, report)
    write_text(args.out.with_suffix(".md"), _markdown(report))
    print(_markdown(report))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=1_000_000, help="of a process")
    parser.add_argument("--processes", type=_numbers, default=[1, 2, 4], help="with commas; the first one is T(1)")
    parser.add_argument("--shards", type=int, default=2, help="of a process")
    parser.add_argument("--shard-by", choices=["directory", "file"], default="directory")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=_numbers, default=[0, 1, 2, 3], help="numbers of the cores that are used")
    parser.add_argument("--work", type=Path, default=Path("results/benchmark_data"), help="corpora and what is made")
    parser.add_argument("--out", type=Path, default=Path("reports/scaling.json"))
    parser.add_argument("--base", type=Path, default=Path("results/base"), help="folder of the base model")
    parser.add_argument("--text", type=Path, help="take the code below this folder instead of the pinned wheels")
    parser.set_defaults(python=sys.executable)
    args = parser.parse_args()
    if not (args.base / "tokenizer.json").is_file():
        sys.exit(f"{args.base}: expected the base model. Run `snakemake results/base`, or name a folder with --base.")
    if max(args.processes) > len(args.cores):
        sys.exit(f"--cores: expected {max(args.processes)} numbers, one for each process, found {len(args.cores)}.")
    return args


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _workflow(args: argparse.Namespace, corpus: Path, n: int) -> Run:
    """Make the base folder, which is not timed, then the data; then ask for it again."""
    folder = args.work / "scaling"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    overlay = ours(args).workflow(corpus, n * args.shards)
    overlay["corpus"]["sources"][0]["shard_by"] = args.shard_by
    path = folder / "overlay.json"
    write_json(path, overlay)
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    command += ["--workflow-profile", "none", "--cores", str(n), "--configfile"]
    command += [str(ROOT / "config.yaml"), str(path.resolve()), "--"]
    cores, log = args.cores[:n], args.work / "logs/scaling.log"
    run([*command, "results/base"], cores=cores, log=log)
    with _recorded(folder / "jobs"):
        began = time.time()
        made = run([*command, "data"], cores=cores, log=log)
    jobs = _jobs(folder / "jobs", began)
    lines = [pq.read_metadata(p).num_rows for p in sorted((folder / "results/shards").glob("*/lines.parquet"))]
    again = run([*command, "data"], cores=cores, log=log)
    shutil.rmtree(folder)
    return Run(n, made.wall_s, made.cpu_s, again.wall_s, made.load_before, jobs, lines)


@contextmanager
def _recorded(folder: Path) -> Iterator[None]:
    """Let every process of commbert that is started meanwhile write down its times below a folder."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(RECORDER, encoding="utf-8")
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder.resolve()), *filter(None, [before])])
    try:
        yield
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before


def _jobs(folder: Path, began: float) -> list[Job]:
    """Return what the processes wrote down."""
    found = [read_json(path) for path in sorted(folder.glob("*.json"))]
    return [Job(f["stage"], f["began"] - began, f["ended"] - f["began"], f["cpu_s"]) for f in found]


def _machine(args: argparse.Namespace, corpus: Path) -> dict[int, dict[str, float]]:
    """Return the time of N equal jobs side by side, each on a core of its own, and how it grows."""
    folder = args.work / "scaling"
    shutil.rmtree(folder, ignore_errors=True)
    stages = [(stage, command) for stage, command in ours(args).stages(corpus, folder, 1) if stage in ("ingest", "lex")]
    run(stages[0][1], cores=args.cores[:1], log=args.work / "logs/ingest.log")
    lex = stages[1][1]

    def one(core: int) -> Ran:
        own = [*lex, "--out", str(folder / f"lex-{core}")]
        return run(own, cores=[core], log=args.work / f"logs/lex-{core}.log")

    walls: dict[int, list[float]] = {n: [] for n in args.processes}
    for _ in range(args.rounds + 1):
        for n in args.processes:
            with ThreadPoolExecutor(n) as pool:
                walls[n].append(median(r.wall_s for r in pool.map(one, args.cores[:n])))
    shutil.rmtree(folder)
    found = {n: median(seconds[1:]) for n, seconds in walls.items()}  # the first round finds nothing in memory
    first = found[args.processes[0]]
    return {n: {"wall_s": wall_s, "efficiency": first / wall_s} for n, wall_s in found.items()}


def _summary(runs: list[Run]) -> dict[str, Any]:
    """Return medians over the rounds, in all and by stage, and T(1) / T(N) of them."""
    numbers = list(dict.fromkeys(r.processes for r in runs))
    whole, stages = {}, {}
    for n in numbers:
        these = [r for r in runs if r.processes == n]
        figures, by_stage = [r.figures() for r in these], [r.stages() for r in these]
        whole[n] = {name: median(f[name] for f in figures) for name in figures[0]}
        whole[n]["wall_s_range"] = [min(f["wall_s"] for f in figures), max(f["wall_s"] for f in figures)]
        stages[n] = {
            stage: {name: median(found[stage][name] for found in by_stage) for name in by_stage[0][stage]}
            for stage in by_stage[0]
        }
    first = numbers[0]
    for n in numbers:
        whole[n]["efficiency"] = whole[first]["wall_s"] / whole[n]["wall_s"]
        whole[n]["efficiency_without_snakemake"] = whole[first]["busy_s"] / whole[n]["busy_s"]
        for stage, found in stages[n].items():
            found["efficiency"] = stages[first][stage]["wall_s"] / found["wall_s"]
    return {"all": whole, "stages": stages}


def _markdown(report: dict[str, Any]) -> str:
    whole, stages, machine = report["all"], report["stages"], report["machine"]
    rows = [
        [
            str(n),
            f"{report['corpora'][n]['n_lines']:,}",
            f"{f['wall_s']:.1f} ({f['wall_s_range'][0]:.1f} to {f['wall_s_range'][1]:.1f})",
            f"**{f['efficiency']:.2f}**",
            f"{f['busy_s']:.1f}",
            f"**{f['efficiency_without_snakemake']:.2f}**",
            f"{f['snakemake_s']:.1f}",
            f"{f['nothing_to_do_s']:.1f}",
            f"{f['cpu_s']:.1f}",
            f"{f['jobs_cpu_s']:.1f}",
            f"{f['gathered_s']:.1f}",
            f"{f['one_job_alone_s']:.1f}",
            f"{100 * f['idle_share']:.0f} %",
            f"{f['largest_shard']:.2f}",
            f"{machine[n]['efficiency']:.2f}",
        ]
        for n, f in whole.items()
    ]
    head = (
        "processes | lines | wall s | efficiency | wall s with jobs | efficiency without Snakemake's own time "
        "| Snakemake's own s | nothing to do s | CPU s | CPU s of jobs | s in gathering jobs | s with one job alone "
        "| idle while jobs run | largest shard / mean | equal jobs side by side"
    )
    per_stage = [
        [
            stage,
            "shards" if stage in SHARDED else "gathered",
            *(f"{stages[n][stage]['wall_s']:.2f}" for n in whole),
            *(f"{stages[n][stage]['cpu_s']:.2f}" for n in whole),
            *(f"{stages[n][stage]['efficiency']:.2f}" for n in list(whole)[1:]),
        ]
        for stage in next(iter(stages.values()))
    ]
    stage_head = " | ".join(
        [
            "stage",
            "kind",
            *(f"wall s, {n}" for n in whole),
            *(f"CPU s, {n}" for n in whole),
            *(f"efficiency, {n}" for n in list(whole)[1:]),
        ]
    )
    said = (
        f"{report['lines_per_process']:,} lines and {report['shards_per_process']} shards (dealt by "
        f"{report['shard_by']}) a process; N processes are pinned to N cores. Medians of "
        f"{report['about']['rounds']} runs that take turns; to reach: {TO_REACH}. Wall seconds of a stage are those "
        "of its jobs together, divided by the processes that share them; a job that gathers counts whole. Load "
        f"average before each run: {', '.join(f'{load:.1f}' for load in report['about']['load_before'])}."
    )
    parts = [
        "# Weak scaling of the data stages",
        setting(report),
        said,
        table(head, rows),
        table(stage_head, per_stage),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
