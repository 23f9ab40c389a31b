"""One real run of the whole workflow on a tiny corpus and a tiny base model; tests then ask what would run again."""

import contextlib
import io
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

import tiny
from workflow_case import REPO, snakemake, tiny_config, write_config, write_tree


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A working folder in which everything has been made: once, however many processes run the tests."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "finished_run"
    with FileLock(f"{folder}.lock"):
        if not (folder / "complete").exists():
            make_run(folder)
            (folder / "complete").touch()
    return folder


def make_run(folder: Path) -> None:
    write_tree(folder / "tree")
    tiny.write_base_model(folder / "base_model")
    write_config(folder, tiny_config(folder))
    done = snakemake(folder)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]


@pytest.fixture
def run_copy(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be changed."""
    folder = tmp_path / "copy"
    shutil.copytree(finished_run, folder, symlinks=True)
    return folder


@pytest.fixture
def plan_jobs(monkeypatch: pytest.MonkeyPatch) -> Callable[..., set[tuple[str, str]]]:
    """Return the jobs that a dry run in a folder would execute: rule, and the values of its wildcards."""

    def jobs(folder: Path, *, targets: tuple[str, ...] = (), forced: tuple[str, ...] = ()) -> set[tuple[str, str]]:
        from snakemake.api import SnakemakeApi
        from snakemake.settings.types import DAGSettings, OutputSettings, Quietness, ResourceSettings

        from commbert.corpus import fingerprints

        fingerprints._remembered.cache_clear()  # every plan of a user is a process of its own
        monkeypatch.chdir(folder)
        with (
            contextlib.redirect_stderr(io.StringIO()),
            SnakemakeApi(OutputSettings(dryrun=True, quiet={Quietness.ALL})) as api,
        ):
            workflow = api.workflow(
                resource_settings=ResourceSettings(cores=2), snakefile=REPO / "Snakefile", workdir=folder
            )
            dag_settings = DAGSettings(targets=set(targets), forcerun=set(forced))
            dag_api = workflow.dag(dag_settings=dag_settings)
            dag_api.execute_workflow(executor="dryrun")
            dag = dag_api.workflow_api._workflow.dag
            found = {(job.rule.name, " ".join(job.wildcards)) for job in dag.jobs if dag.needrun(job)}
            return {job for job in found if job[0] not in {"all", "data", "train", "evaluate", "report"}}

    return jobs


@pytest.fixture
def plan(plan_jobs: Callable[..., set[tuple[str, str]]]) -> Callable[..., set[str]]:
    """Return the rules that a dry run in a folder would execute."""
    return lambda folder, **options: {rule for rule, _ in plan_jobs(folder, **options)}
