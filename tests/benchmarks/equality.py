"""The same smoke run on one process, two processes, one node and two nodes: is the result the same?

    python tests/benchmarks/equality.py [--work DIR] [--out reports]

The whole workflow (resources/presets/smoke.yaml) four times, each in a folder of its own: locally by one and by two
processes, and through a Slurm of two nodes that this program starts (tests/workflow/slurm_cluster.py) with the profile
workflow/profiles/slurm on one node and on two. Compared are all tables of the data stages (bit by bit, by their
content), every loss of every step, and the trained weights. Writes equality.json and equality.md; the exit code is 1 if
a table differs or a loss by more than 1e-5.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from commbert.artifacts import sha256_file, write_json, write_text
from commbert.provenance import commit
from commbert.tables import content_digest
from workflow.slurm_cluster import SlurmCluster
from workflow_case import REPO

LOCAL = ("--cores", "2")
SLURM = ("--workflow-profile", "workflow/profiles/slurm", "--slurm-init-seconds-before-status-checks", "1")
WAYS = {
    "local, 1 process": ({"processes": 1}, LOCAL),
    "local, 2 processes": ({"processes": 2}, LOCAL),
    "Slurm, 1 node of 2 processes": ({"processes": 2}, SLURM),
    "Slurm, 2 nodes of 1 process": ({"processes": 1, "nodes": 2}, SLURM),
}
MOST = 1e-5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder for the runs; else that of temporary files")
    parser.add_argument("--out", type=Path, default=Path("reports"))
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with (
        tempfile.TemporaryDirectory(prefix="equality-", dir=arguments.work) as name,
        SlurmCluster(Path(name, "cluster")) as cluster,
    ):
        for number, (way, (runtime, how)) in enumerate(WAYS.items()):
            folder = Path(name, f"run-{number}")
            took_s = run(folder, runtime, how, {**cluster.environment, "OMP_NUM_THREADS": "1"})
            rows.append({"way": way, "took_s": took_s, **compared(folder, Path(name, "run-0"))})
            print(rows[-1], flush=True)
        jobs = cluster.call("squeue", "--states=all", "--format=%.6i %.9P %.24k %.9T %.6D %N")
    write_json(
        arguments.out / "equality.json", {"about": {"commit": commit()}, "rows": rows, "jobs": jobs.splitlines()}
    )
    write_text(
        arguments.out / "equality.md", as_markdown(rows) + f"\nThe jobs, as Slurm lists them:\n\n```\n{jobs}```\n"
    )
    print(as_markdown(rows))
    return int(any(row["tables_differing"] or row["largest_loss_difference"] > MOST for row in rows))


def run(folder: Path, runtime: dict[str, Any], how: tuple[str, ...], environment: dict[str, str]) -> float:
    """Run the whole smoke workflow in a folder; return its wall time."""
    folder.mkdir()
    (folder / "way.yaml").write_text(json.dumps({"runtime": {"device": "cpu", **runtime}}))
    command = [sys.executable, "-m", "snakemake", "--directory", str(folder), *how, "--max-threads", "1"]
    command += ["--configfile", "config.yaml", "resources/presets/smoke.yaml", str(folder / "way.yaml")]
    began = time.monotonic()
    with (folder / "said").open("wb") as said:
        subprocess.run(command, cwd=REPO, env={**os.environ, **environment}, stdout=said, stderr=said, check=True)
    return round(time.monotonic() - began, 1)


def compared(folder: Path, reference: Path) -> dict[str, Any]:
    """Return what differs between two finished runs."""
    found, wanted = (_tables(f) for f in (folder, reference))
    differing = sorted(t for t in found.keys() | wanted.keys() if found.get(t) != wanted.get(t))
    runs = sorted(p.name for p in (reference / "results/runs").iterdir() if (p / "metrics.jsonl").is_file())
    differences = [abs(a - b) for r in runs for a, b in zip(_losses(folder, r), _losses(reference, r), strict=True)]
    weights = [sha256_file(f / f"results/runs/{r}/final/model.safetensors") for f in (folder, reference) for r in runs]
    return {
        "tables": len(found),
        "tables_differing": differing,
        "losses": len(differences),
        "largest_loss_difference": max(differences),
        "same_weights": weights[: len(runs)] == weights[len(runs) :],
        "world_size": json.loads((folder / "results/runs/final/training.json").read_text())["world_size"],
    }


def _tables(folder: Path) -> dict[str, str]:
    """Return the content of the tables of the data stages; what models have scored is no data."""
    paths = (p for p in (folder / "results").rglob("*.parquet") if not {"logs", "runs", "baselines"} & {*p.parts})
    return {str(p.relative_to(folder)): content_digest(p) for p in paths}


def _losses(folder: Path, name: str) -> list[float]:
    rows = map(json.loads, (folder / f"results/runs/{name}/metrics.jsonl").read_text().splitlines())
    keys = ("loss", "mlm_loss", "contrastive_loss")
    return [row[k] for row in rows for k in keys if row["event"] == "step" and row.get(k) is not None]


def as_markdown(rows: list[dict[str, Any]]) -> str:
    """Return the table of what was compared with the first row."""
    lines = ["| way | processes | tables equal | losses compared | largest difference | same weights | wall (s) |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for row in rows:
        equal = f"{row['tables'] - len(row['tables_differing'])} of {row['tables']}"
        cells = (row["way"], row["world_size"], equal, row["losses"], f"{row['largest_loss_difference']:.1e}")
        lines.append("| " + " | ".join(map(str, (*cells, row["same_weights"], row["took_s"]))) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
