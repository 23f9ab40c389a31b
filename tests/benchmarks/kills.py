"""Kill a training many times and write down what came of it: ``python tests/benchmarks/kills.py --trials 100``.

Writes kills.json (every trial) and kills.md (the table) into the folder named by ``--out``.
"""

import argparse
import platform
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

import tiny_stages
from commbert.artifacts import write_json, write_text
from faults.kill_trials import Result, as_json, as_markdown, as_rows, run_trials
from faults.trainer import N_STEPS, SETTINGS


def main() -> int:
    arguments = _arguments()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        stages = tiny_stages.build(Path(folder) / "stages")
        results = run_trials(stages, Path(folder), n_trials=arguments.trials, seed=arguments.seed, jobs=arguments.jobs)
    _write(results, arguments, time.monotonic() - began)
    return int(not all(all(r.equal.values()) for r in results))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="trials side by side")
    parser.add_argument("--out", type=Path, default=Path("reports"))
    return parser.parse_args()


def _write(results: list[Result], arguments: argparse.Namespace, wall_s: float) -> None:
    table = as_rows(results)
    about = {
        "trials": arguments.trials,
        "seed": arguments.seed,
        "jobs": arguments.jobs,
        "wall_s": round(wall_s, 1),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "settings": SETTINGS,
    }
    write_json(arguments.out / "kills.json", {"about": about, "table": table, "results": as_json(results)})
    text = (
        f"# kill -9 during training\n\n{arguments.trials} trials (seed {arguments.seed}) of {N_STEPS} steps with a "
        f"checkpoint after every step, on CPU, torch {torch.__version__}; {wall_s:.0f} s. Each is compared by SHA-256 "
        "with a training that was never killed. A kill was inside a save if it left a temporary folder.\n\n"
    )
    write_text(arguments.out / "kills.md", text + as_markdown(table))
    print(text + as_markdown(table))


if __name__ == "__main__":
    sys.exit(main())
