"""What the jobs ask a cluster for: read from the plan of a dry run."""

import re
from pathlib import Path

import pytest

from workflow_case import snakemake, tiny_config, write_config


@pytest.mark.parametrize(
    ("nodes", "gpus", "training", "finetuning"),
    [
        (1, 0, {"gpu": "0"}, {"gpu": "0"}),
        (1, 4, {"gpu": "4"}, {"gpu": "1"}),
        (2, 4, {"mpi": "srun", "nodes": "2", "tasks": "2", "slurm_extra": "--gpus-per-node=4"}, {"gpu": "1"}),
    ],
)
def test_a_training_asks_for_the_gpus_of_each_of_its_machines_and_a_fine_tuning_for_one(
    tmp_path: Path, nodes: int, gpus: int, training: dict[str, str], finetuning: dict[str, str]
) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a.py").write_text("harq = rlc\n")
    (tmp_path / "base_model").mkdir()
    (tmp_path / "labels.csv").write_text("text,label\na,b\n")
    config = {**tiny_config(tmp_path), "runtime": {"nodes": nodes, "gpus": gpus}}
    write_config(tmp_path, {**config, "finetune": {"mine": {"table": str(tmp_path / "labels.csv")}}})
    done = snakemake(tmp_path, "-n", "finetune", "results/runs/final/training.json")
    assert done.returncode == 0, done.stderr
    for rule, expected in (("train_run", training), ("finetune_table", finetuning)):
        job = re.search(rf"^rule {rule}:\n(?: .*\n)+", done.stdout, re.MULTILINE)
        resources = re.search(r"resources: (.*)", job.group(0) if job else "")
        assert resources, done.stdout
        asked = dict(part.partition("=")[::2] for part in resources.group(1).split(", "))
        found = {name: asked.get(name, "0").split(" ")[0] for name in expected}
        assert found == expected
