"""The workflow over shards: their number changes no result, and one that failed is made again alone."""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import data_case
import tiny
from commbert import tables
from workflow_case import snakemake, tiny_config, write_config, write_tree

pytestmark = pytest.mark.slow  # 1, 4 and 16 shards, each up to a trained model

TRAINED = "results/runs/final/training.json"
NUMBERS = (1, 4, 16)


def make_folder(folder: Path, n_shards: int) -> Path:
    """Write a working folder in which nothing has been made; the tree and the base are the same in all."""
    tiny.source_tree(folder / "tree", n_directories=24)
    write_tree(folder / "tree")  # the first six again, and functions in all
    tiny.write_base_model(folder / "base_model")
    config = tiny_config(folder)
    # Relative: what is compared byte by byte must not differ by the folder that it was made in.
    config["corpus"]["sources"][0] |= {"path": "tree", "shards": n_shards}
    config["model"]["base"]["path"] = "base_model"
    config["runs"], config["report"]["compare_with"] = {"final": {}}, ["base"]
    config["runtime"] = {"threads": 1, "monitor_every_s": 60}
    write_config(folder, config)
    return folder


@pytest.fixture(scope="module", autouse=True)
def _compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where nothing may be kept beside the sources, keep what is compiled elsewhere: there are a hundred short jobs."""
    with pytest.MonkeyPatch.context() as patch:
        if sys.dont_write_bytecode:
            patch.delenv("PYTHONDONTWRITEBYTECODE")
            patch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path_factory.mktemp("bytecode")))
        yield


FOUR = [f"tree-0000{i}-of-00004" for i in range(4)]
LINES = [f"results/shards/{shard}/lines.parquet" for shard in FOUR]
LEXED = [f"results/lex/{shard}" for shard in FOUR]
VICTIMS = (f"ingest {FOUR[2]}", f"lex {FOUR[2]}", f"draw {FOUR[1]}", "pairs", "")
"""What is killed in one start of the workflow after the other; nothing in the last."""
KILLER = """
import os, re, signal, sys
here = os.path.dirname(__file__)
if len(sys.orig_argv) > 2 and sys.orig_argv[1].endswith("/commbert"):
    found = re.findall(r"-out \\S*(tree-\\d+-of-\\d+)", " ".join(sys.orig_argv))
    job = " ".join([sys.orig_argv[2], *set(found)])
    with open(f"{here}/jobs", "a") as file:
        file.write(job + "\\n")
    with open(f"{here}/victim") as file:
        if file.read() == job:
            os.kill(os.getpid(), signal.SIGKILL)
"""
"""Runs first in every Python process: each stage writes down its name and shard, and one of them dies."""


@dataclass(frozen=True)
class Killed:
    """A working folder of four shards in which stages were killed until everything was made."""

    folder: Path
    starts: list[tuple[int, list[str]]]
    """Exit code and jobs of each start of the same command."""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, _compiled_once: None) -> Killed:
    folder, kills = make_folder(tmp_path_factory.mktemp("shards4"), 4), tmp_path_factory.mktemp("kills")
    (kills / "sitecustomize.py").write_text(KILLER)
    starts = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(kills), prepend=":")
        for victim in VICTIMS:
            (kills / "victim").write_text(victim)
            (kills / "jobs").write_text("")
            done = snakemake(folder, "data", TRAINED, "--keep-going", cores=4)
            assert "Traceback" not in done.stderr
            starts.append((done.returncode, (kills / "jobs").read_text().splitlines()))
    assert done.returncode == 0, done.stderr[-3000:]
    return Killed(folder, starts)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, killed: Killed) -> Callable[[int], Path]:
    """Return the folder in which the workflow trained from so many shards; where there are four, stages were killed."""
    folders = {4: killed.folder}

    def make(n_shards: int) -> Path:
        if n_shards not in folders:
            folder = make_folder(tmp_path_factory.mktemp(f"shards{n_shards}"), n_shards)
            done = snakemake(folder, "data", TRAINED, cores=4)
            assert done.returncode == 0, done.stderr[-3000:]
            folders[n_shards] = folder
        return folders[n_shards]

    return make


def shards_with_files(folder: Path) -> int:
    counts = json.loads((folder / "results/corpus/shards.json").read_text())
    return sum(shard["files"] > 0 for shard in counts)


def window_rows(folder: Path, split: str) -> list[dict[str, Any]]:
    parts = tables.read_parts(folder / f"results/windows/{split}.json", tables.WINDOWS)
    return [row for part in parts for row in tables.read(part, tables.WINDOWS).to_pylist()]


def metrics(folder: Path) -> list[tuple[str, Any, Any]]:
    """Return the loss and the step of what the trainer wrote: no times, no speeds."""
    rows = [json.loads(line) for line in (folder / "results/runs/final/metrics.jsonl").read_text().splitlines()]
    return [(row["event"], row["step"], row["loss"]) for row in rows if row["event"] == "step"]


@pytest.mark.parametrize("n_shards", NUMBERS[1:])
def test_the_files_are_spread_over_the_shards(made: Callable[[int], Path], n_shards: int) -> None:
    # Else the comparisons below would show nothing; a few of 16 may have no directory.
    assert shards_with_files(made(n_shards)) > n_shards / 2


@pytest.mark.parametrize("n_shards", NUMBERS[1:])
def test_the_number_of_shards_changes_no_byte_of_what_the_workflow_gathers(
    made: Callable[[int], Path], n_shards: int
) -> None:
    one, more = (data_case.gathered(made(n) / "results") for n in (1, n_shards))
    assert data_case.differing(one, more) == []


@pytest.mark.parametrize("n_shards", NUMBERS[1:])
@pytest.mark.parametrize("split", tables.SPLITS)
def test_windows_laid_end_to_end_are_the_same_for_any_number_of_shards(
    made: Callable[[int], Path], n_shards: int, split: str
) -> None:
    one, more = made(1), made(n_shards)
    assert window_rows(one, split) == window_rows(more, split)
    assert len({tables.content_digest(folder / f"results/windows/{split}.json") for folder in (one, more)}) == 1


@pytest.mark.parametrize("n_shards", NUMBERS[1:])
def test_a_training_does_not_see_how_many_shards_its_data_came_in(made: Callable[[int], Path], n_shards: int) -> None:
    one, more = made(1), made(n_shards)
    assert len(metrics(one)) == 4
    assert metrics(one) == metrics(more)
    for name in ("start", "trained/best", "trained/final"):
        weights = (folder / f"results/runs/final/{name}/model.safetensors" for folder in (one, more))
        assert len({hashlib.sha256(path.read_bytes()).hexdigest() for path in weights}) == 1, name


def of_shards(*stages: str, but: str = "") -> set[str]:
    """Return the jobs of stages that have one for each of the four shards."""
    return {f"{stage} {shard}" for stage in stages for shard in FOUR if shard != but}


def test_a_shard_that_was_killed_is_made_again_alone_and_the_others_go_on_without_it(
    killed: Killed, plan: Callable[..., set[str]]
) -> None:
    one, two = FOUR[1:3]
    data = {"corpus", "functions", "acronyms"}
    expected = [
        {"base", *of_shards("ingest"), *of_shards("lex", but=two)},
        {f"ingest {two}", f"lex {two}", *data},
        {f"lex {two}", "words", "tokenizer", *of_shards("windows", "draw"), "list-windows", "texts", "model"},
        {f"draw {one}", "pairs"},
        {"pairs", "train"},
    ]
    assert [code for code, _ in killed.starts] == [1, 1, 1, 1, 0]
    assert [set(jobs) for _, jobs in killed.starts] == expected
    assert all(len(jobs) == len(set(jobs)) for _, jobs in killed.starts)
    assert plan(killed.folder, targets=("data", TRAINED)) == set()


def test_a_damaged_table_of_one_shard_fails_it_alone_and_once_repaired_nothing_else_runs(
    tmp_path: Path, plan_jobs: Callable[..., set[tuple[str, str]]]
) -> None:
    folder = make_folder(tmp_path / "damaged", 4)
    assert snakemake(folder, *LINES, cores=4).returncode == 0
    damaged = folder / LINES[3]
    data = damaged.read_bytes()
    damaged.write_bytes(data[: len(data) // 2])
    done = snakemake(folder, *LEXED, "--keep-going", cores=4)
    assert done.returncode == 1
    assert LINES[3] in done.stderr
    assert "Traceback" not in done.stderr
    assert [(folder / name).is_dir() for name in LEXED] == [True, True, True, False]
    damaged.write_bytes(data)
    assert plan_jobs(folder, targets=tuple(LEXED)) == {("lex", FOUR[3])}
