"""A tiny configuration of the whole workflow, and how a test runs it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

import tiny

REPO = Path(__file__).parents[1]


def tiny_config(folder: Path) -> dict[str, Any]:
    return {
        "corpus": {
            "sources": [{"kind": "path", "name": "tree", "path": str(folder / "tree"), "license": "MIT"}],
            "split": {"validation": 0.2, "test": 0.2},
        },
        "tokenizer": {"min_count": 3, "max_new_words": 20},
        "windows": {"max_length": 48},
        "pairs": {"heldout_positives": 40, "subsample": None},
        "model": {"base": {"kind": "path", "path": str(folder / "base_model")}},
        "training": {
            "max_steps": 4,
            "batch_windows": 8,
            "batch_pairs": 16,
            "batch_texts": 2,
            "micro_batches": 2,
            "validate_every_steps": 2,
            "validation_windows": 8,
            "validation_pairs": 20,
            "optimizer": {"learning_rate": 1.0e-3},
        },
        "evaluation": {"windows": 20, "retrieval_queries": 30, "bootstrap": 100, "random_pairs": 200},
        "report": {"compare_with": ["base", "other"]},
        "runs": {"final": {}, "other": {"training": {"objectives": {"mlm": 1.0, "contrastive": 0.0}}}},
    }


FUNCTION = '''def send_{part}_{i}(grant):
    """Send {part} grant {i}."""
    return grant + {i}
'''


def write_tree(folder: Path) -> None:
    """Write the source tree: lines of words, and functions with briefs in each directory."""
    tiny.source_tree(folder)
    for part in sorted(folder.iterdir()):
        code = [FUNCTION.format(part=part.name, i=i) for i in range(3)]
        (part / "grants.py").write_text("\n\n".join(code), encoding="utf-8")


def write_config(folder: Path, config: dict[str, Any]) -> None:
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")


def snakemake(folder: Path, *arguments: str, cores: int = 2) -> subprocess.CompletedProcess[str]:
    with start_snakemake(folder, *arguments, cores=cores) as process:
        out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def start_snakemake(folder: Path, *arguments: str, cores: int = 2) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "snakemake", "-s", str(REPO / "Snakefile"), "-d", str(folder)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [*command, "--cores", str(cores), *arguments], stdout=pipe, stderr=pipe, text=True, env=environment
    )
