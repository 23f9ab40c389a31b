"""Kill one process at a random moment of a training that Snakemake submits, and write down what came of it.

    python tests/benchmarks/cluster_kills.py [--trials 20] [--seed 1] [--local] [--work DIR] [--out reports]

Two training processes on the two nodes of a Slurm that this program starts (tests/workflow/slurm_cluster.py), through
workflow/profiles/slurm; with ``--local`` two on this machine, without Slurm. Killed are a rank, an agent (or the
launcher), what a node's daemon runs, Snakemake, and the Snakemake of the job: tests/faults/workflow_trials.py. Writes
cluster_kills.json (every trial) and cluster_kills.md (the table); local_kills.* with ``--local``. The exit code is 0 if
every trial ended, after at most one repeat of the same command, in the result of a run that was never killed.
"""

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from commbert.artifacts import write_json, write_text
from commbert.provenance import commit
from faults.kill_trials import as_markdown
from faults.workflow_trials import (
    CLUSTER,
    LOCAL,
    Place,
    Result,
    as_json,
    as_rows,
    make_data,
    make_plans,
    run_trials,
)
from workflow.slurm_cluster import SlurmCluster
from workflow_case import REPO

NODES = 2
# The profile, looking more often: how long a site's scheduler takes is not measured here.
SLURM = ("--workflow-profile", str(REPO / "workflow/profiles/slurm"), "--max-threads", "1", "--latency-wait", "20")
SLURM += ("--slurm-init-seconds-before-status-checks", "1")


def main() -> int:
    arguments = _arguments()
    began = time.monotonic()
    victims = tuple(arguments.victims or (LOCAL if arguments.local else CLUSTER))
    with (
        tempfile.TemporaryDirectory(prefix="kills-", dir=arguments.work) as name,
        _place(arguments, Path(name)) as place,
    ):
        plans = make_plans(arguments.trials, arguments.seed, victims)
        results = run_trials(place, Path(name), plans, _show)
    _write(results, arguments, time.monotonic() - began)
    return int(not all(r.is_good for r in results))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=200, help="of the training; it starts for a few seconds as well")
    parser.add_argument("--local", action="store_true", help="two processes on this machine, without Slurm")
    parser.add_argument(
        "--victims", nargs="+", choices=[*dict.fromkeys((*CLUSTER, *LOCAL))], help="only these, by turns"
    )
    parser.add_argument("--work", type=Path, help="folder for what is trained; else that of temporary files")
    parser.add_argument("--out", type=Path, default=Path("reports"))
    return parser.parse_args()


@contextmanager
def _place(arguments: argparse.Namespace, folder: Path) -> Iterator[Place]:
    """Make the data, and a cluster if trials run on one."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if sys.dont_write_bytecode:
        # Compiling torch's and transformers' sources takes longer than the training itself; once is enough.
        del environment["PYTHONDONTWRITEBYTECODE"]
        environment["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
    if arguments.local:
        made = make_data(folder / "made", {"processes": 2}, n_steps=arguments.steps)
        yield Place(made, ("--cores", "2"), environment)
        return
    made = make_data(folder / "made", {"processes": 1, "nodes": NODES}, n_steps=arguments.steps)
    cluster = SlurmCluster(folder / "cluster")
    cluster.start()
    try:
        yield Place(made, SLURM, {**environment, "PATH": cluster.environment["PATH"]}, cluster)
    finally:
        cluster.stop()


def _show(result: Result) -> None:
    shown = f"trial {result.plan.number}: {result.kill} codes {result.codes} in {result.took_s} s"
    if result.is_good:
        print(f"{shown} good", flush=True)
        return
    left = [*result.damaged, *result.left_processes, *result.left_jobs]
    said = result.said[-1][-500:] if result.said else ""
    print(f"{shown} NOT GOOD: equal {result.equal}, left {left}; its end: {said}", flush=True)


def _write(results: list[Result], arguments: argparse.Namespace, wall_s: float) -> None:
    table = as_rows(results)
    about: dict[str, Any] = {
        "trials": arguments.trials,
        "seed": arguments.seed,
        "steps": arguments.steps,
        "local": arguments.local,
        "wall_s": round(wall_s, 1),
        "commit": commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    where = "two processes on one machine" if arguments.local else "two processes on two nodes of Slurm"
    name = "local_kills" if arguments.local else "cluster_kills"
    write_json(arguments.out / f"{name}.json", {"about": about, "table": table, "results": as_json(results)})
    text = (
        f"# kill -9 during a training that Snakemake runs\n\n{arguments.trials} trials (seed {arguments.seed}) of "
        f"{arguments.steps} steps by {where}, CPU, torch {torch.__version__}; {wall_s:.0f} s. Each is compared by "
        "SHA-256 with a run that was never killed: final and best weights, metrics and training.json without times. "
        "What did not end well was asked for once more, by the same command.\n\n"
    )
    write_text(arguments.out / f"{name}.md", text + as_markdown(table))
    print(text + as_markdown(table))


if __name__ == "__main__":
    sys.exit(main())
