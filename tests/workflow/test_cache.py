"""Snakemake's cache between runs: what it serves, and what it must not."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

import tiny
from commbert.artifacts import sha256_file, verify_folder
from workflow_case import REPO, snakemake, start_snakemake, tiny_config, write_config, write_tree

TARGET = "results/corpus/words.parquet"


def test_the_commands_of_cached_rules_hold_no_wildcards() -> None:
    """Snakemake's digest of a job covers command and params, and leaves out what stands for a wildcard."""
    rules = (REPO / "workflow/rules/data.smk").read_text().split("\nrule ")[1:]
    cached = [rule for rule in rules if "cache: CACHE" in rule]
    assert len(cached) == len(rules) - 1  # all but one of git
    assert not [rule for rule in cached if "{wildcards" in rule.split("shell:")[1]]


def made(done: subprocess.CompletedProcess[str]) -> set[str]:
    """Return the stages that ran; what the cache serves says nothing."""
    assert done.returncode == 0, done.stderr[-3000:]
    return set(re.findall(r"^(\w+): done in", done.stderr, re.MULTILINE))


def files(folder: Path) -> dict[str, str]:
    """Return digests of all results by path."""
    tops = (folder / "results" / where for where in ("lex", "shards", "corpus", "base"))
    found = (Path(at, name) for top in tops for at, _, names in os.walk(top, followlinks=True) for name in names)
    return {str(p.relative_to(folder)): sha256_file(p) for p in found if p.is_file() and p.name[0] != "."}


def test_without_a_cache_nothing_is_said_of_one(tmp_path: Path) -> None:
    write_tree(tmp_path / "tree")
    tiny.write_base_model(tmp_path / "base_model")
    write_config(tmp_path, tiny_config(tmp_path))
    done = snakemake(tmp_path, "-n")
    assert done.returncode == 0
    assert "caching" not in done.stdout + done.stderr


def test_a_cache_that_cannot_be_written_is_said_in_a_line_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    write_tree(tmp_path / "tree")
    tiny.write_base_model(tmp_path / "base_model")
    monkeypatch.setenv("SNAKEMAKE_OUTPUT_CACHE", str(tmp_path / "file"))
    write_config(tmp_path, tiny_config(tmp_path))
    done = snakemake(tmp_path, "-n")
    assert done.returncode == 1
    assert f"SNAKEMAKE_OUTPUT_CACHE={tmp_path}/file: expected a folder for a cache that can be written" in done.stdout
    assert "provenance.py" not in done.stdout + done.stderr


@pytest.mark.slow
def test_another_folder_gets_the_same_tables_from_the_cache_unless_what_makes_them_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SNAKEMAKE_OUTPUT_CACHE", str(tmp_path / "cache"))
    write_tree(tmp_path / "tree")
    tiny.write_base_model(tmp_path / "base_model")
    config = tiny_config(tmp_path)
    for name in ("one", "two", "settings", "tree changed"):
        (tmp_path / name).mkdir()
        write_config(tmp_path / name, config)

    assert made(snakemake(tmp_path / "one", TARGET)) >= {"ingest", "corpus", "lex", "words"}
    first = files(tmp_path / "one")
    done = snakemake(tmp_path / "two", TARGET)
    assert made(done) == set()
    assert "eligible" not in done.stderr
    assert files(tmp_path / "two") == first
    assert (tmp_path / "two" / TARGET).is_symlink()
    assert verify_folder(tmp_path / "two/results/base")

    changed = config | {"words": {"min_chars": 3}}
    (tmp_path / "settings/config.yaml").write_text(yaml.safe_dump(changed))
    assert made(snakemake(tmp_path / "settings", TARGET)) == {"lex", "words"}

    (tmp_path / "tree" / "new.py").write_text("new_word = 1\n")
    assert made(snakemake(tmp_path / "tree changed", TARGET)) >= {"ingest", "corpus", "lex", "words"}

    # A rerun writes beside the cache, and deleting takes the links away, not what they point to.
    (tmp_path / "two/config.yaml").write_text(yaml.safe_dump(changed))
    assert snakemake(tmp_path / "two", "--delete-all-output", TARGET).returncode == 0
    assert not (tmp_path / "two" / TARGET).exists()
    assert files(tmp_path / "one") == first


@pytest.mark.slow
def test_workflows_that_fill_one_cache_at_once_or_after_a_kill_leave_each_folder_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SNAKEMAKE_OUTPUT_CACHE", str(tmp_path / "cache"))
    tiny.write_base_model(tmp_path / "base_model")
    write_tree(tmp_path / "tree")
    for name in ("made", "one", "two", "three", "after"):
        (tmp_path / name).mkdir()
        write_config(tmp_path / name, tiny_config(tmp_path))

    # Killed while it stored: the record of one folder is missing, and the folder is another one's by now.
    assert made(snakemake(tmp_path / "made", "results/base")) == {"base"}
    (record,) = (tmp_path / "cache").glob("*/*_usage.json")
    (folder,) = (tmp_path / "cache").glob("*/*_folder")
    content = sorted(path.name for path in folder.iterdir() if path.name[0] != ".")
    record.unlink()
    (folder / "config.json").write_text("half")

    workflows = [start_snakemake(tmp_path / name, "results/base", cores=1) for name in ("one", "two", "three")]
    ends = [(process.communicate()[1], process.returncode) for process in workflows]
    assert [code for _, code in ends] == [0, 0, 0], ends
    assert made(snakemake(tmp_path / "after", "results/base")) == set()
    assert sorted(path.name for path in folder.iterdir() if path.name[0] != ".") == content
    for name in ("one", "two", "three", "after"):
        assert verify_folder(tmp_path / name / "results/base")
