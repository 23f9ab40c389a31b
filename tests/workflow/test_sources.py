"""Sources that are fetched, through Snakemake: a repository on this disk, an archive from a server of our own."""

import functools
import hashlib
import http.server
import json
import os
import socketserver
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tiny
from commbert import tables
from workflow_case import snakemake, tiny_config, write_config

pytestmark = pytest.mark.slow
CORPUS = ("results/corpus/files.parquet", "results/corpus/ingest.json")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A server of the folder ``served`` (an HTTPServer would look its own name up, which takes half a minute)."""
    (tmp_path / "served").mkdir()
    handler = functools.partial(_Quiet, directory=str(tmp_path / "served"))
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


def git(folder: Path, *arguments: str) -> str:
    who = {f"GIT_{kind}_{what}": "t" for kind in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {**os.environ, **who, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    done = subprocess.run(["git", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def git_source(folder: Path) -> dict[str, Any]:
    tiny.source_tree(folder / "work", n_directories=3, seed=1)
    git(folder / "work", "init", "--quiet")
    git(folder / "work", "add", "-A")
    git(folder / "work", "commit", "--quiet", "-m", "one")
    commit = git(folder / "work", "rev-parse", "HEAD")
    return {"kind": "git", "name": "repo", "url": (folder / "work").as_uri(), "commit": commit, "shards": 2}


def archive_source(folder: Path, server: str) -> dict[str, Any]:
    path = folder / "served" / "code.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(tiny.source_tree(folder / "packed", n_directories=2, seed=2), arcname="code")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"kind": "archive", "name": "packed", "url": f"{server}/code.tar.gz", "sha256": sha256, "shards": 2}


def table_source(folder: Path) -> dict[str, Any]:
    rows = [{"text": f"harq_{i} = rlc_{i % 7}(mac_{i})"} for i in range(20)]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"kind": "table", "name": "rows", "path": str(path), "template": "{text}", "sha256": sha256}


def write_sources(folder: Path, *sources: dict[str, Any]) -> None:
    config = tiny_config(folder)
    config["corpus"] |= {"sources": list(sources), "git": {"protocols": ["file"]}}
    write_config(folder, config)


def test_sources_of_every_kind_become_one_corpus(
    tmp_path: Path, server: str, plan_jobs: Callable[..., set[tuple[str, str]]]
) -> None:
    sources = [git_source(tmp_path), archive_source(tmp_path, server), table_source(tmp_path)]
    write_sources(tmp_path, *sources)
    done = snakemake(tmp_path, *CORPUS)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    kept = [r for r in tables.read(tmp_path / CORPUS[0], tables.FILES).to_pylist() if r["kept"]]
    n_files = {name: sum(r["source"] == name for r in kept) for name in ("repo", "packed", "rows")}
    assert n_files == {"repo": 6, "packed": 4, "rows": 20}
    told = json.loads((tmp_path / CORPUS[1]).read_text())["sources"]
    pins = [{key: source[key] for key in ("commit", "sha256", "url") if key in source} for source in told]
    assert pins == [{key: s[key] for key in ("commit", "sha256", "url") if key in s} for s in sources]
    assert plan_jobs(tmp_path, targets=CORPUS) == set()


def test_a_corpus_that_was_fetched_is_not_fetched_again_for_another_setting(
    tmp_path: Path, plan_jobs: Callable[..., set[tuple[str, str]]]
) -> None:
    source = git_source(tmp_path)
    write_sources(tmp_path, source)
    assert snakemake(tmp_path, *CORPUS).returncode == 0
    write_sources(tmp_path, {**source, "include": ["part0/*", "part1/*", "part2/*"]})
    jobs = plan_jobs(tmp_path, targets=CORPUS)
    assert {rule for rule, _ in jobs} >= {"ingest", "corpus"}
    assert "fetch_git" not in {rule for rule, _ in jobs}


@pytest.mark.parametrize("kind", ["archive", "git", "table"])
def test_a_source_that_is_not_the_pinned_one_is_refused_in_a_line(tmp_path: Path, server: str, kind: str) -> None:
    source, message = {
        "archive": (lambda: {**archive_source(tmp_path, server), "sha256": "0" * 64}, f"expected sha256 {'0' * 64}"),
        "git": (lambda: {**git_source(tmp_path), "commit": "0" * 40}, "source repo: "),
        "table": (lambda: {**table_source(tmp_path), "sha256": "0" * 64}, f"expected sha256 {'0' * 64}"),
    }[kind]
    write_sources(tmp_path, source())
    done = snakemake(tmp_path, *CORPUS)
    assert done.returncode == 1
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert message in said[0]
    assert "Traceback" not in done.stdout + done.stderr
    assert not (tmp_path / CORPUS[0]).exists()


def test_an_archive_that_the_server_does_not_have_is_named(tmp_path: Path, server: str) -> None:
    source = {**archive_source(tmp_path, server), "url": f"{server}/nothing.tar.gz"}
    write_sources(tmp_path, source)
    done = snakemake(tmp_path, *CORPUS)
    assert done.returncode == 1
    assert "nothing.tar.gz" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
