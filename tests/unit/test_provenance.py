import importlib.metadata
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import commbert
import tiny
from commbert.corpus.fingerprints import fingerprint_shards
from commbert.errors import SettingsError
from commbert.provenance import cache_folder, digest, digest_of_files, fingerprint_paths, uses_cache
from commbert.settings.corpus import PathSource

PACKAGE = Path(commbert.__file__).parent


@pytest.fixture(scope="module")
def copy_of_package(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(PACKAGE, folder / "commbert", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture
def digests(copy_of_package):
    """Gives a function: edit one file (old text, new text), return (before, after) of a module's digest."""
    asked = "import sys; from commbert.provenance import code_digest; print(*map(code_digest, sys.argv[1:]))"

    def ask(*modules):
        env = {"PYTHONPATH": str(copy_of_package), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-c", asked, *modules]
        return subprocess.run(
            command, env=env, cwd=copy_of_package, capture_output=True, text=True, check=True
        ).stdout.split()

    def edited(file, old, new, *modules):
        path = copy_of_package / "commbert" / file
        text = path.read_text(encoding="utf-8")
        assert old in text
        before = ask(*modules)
        try:
            path.write_text(text.replace(old, new, 1), encoding="utf-8")
            return list(zip(before, ask(*modules), strict=True))
        finally:
            path.write_text(text, encoding="utf-8")

    return edited


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("known.py", "import numpy as np\n", "# a comment\n\nimport numpy  as  np\n"),
        ("known.py", '"""Read the table pairs/known."""', '"""Something else."""'),
        ("artifacts.py", '"""Files and folders', '"""Other words: files and folders'),
    ],
    ids=["comment and format", "docstring of a function", "docstring of an imported module"],
)
def test_looks_leave_the_code_digest(digests, file, old, new):
    [(before, after)] = digests(file, old, new, "commbert.stages.pairs")
    assert before == after


def test_the_words_that_document_a_setting_leave_the_code_digest(digests):
    [(before, after)] = digests(
        "settings/windows.py", '"""Lines before the centre line."""', '"""Reworded."""', "commbert.stages.windows"
    )
    assert before == after


def test_code_of_an_imported_module_changes_only_the_digests_of_its_importers(digests):
    (pairs, windows) = digests(
        "known.py", "np.uint64(32)", "np.uint64(33)", "commbert.stages.pairs", "commbert.stages.windows"
    )
    assert pairs[0] != pairs[1]
    assert windows[0] == windows[1]


def test_code_that_is_imported_two_floors_down_changes_the_digest(digests):
    [(before, after)] = digests("artifacts.py", "os.O_RDONLY", "os.O_RDWR", "commbert.stages.pairs")
    assert before != after


def test_a_text_constant_that_is_no_docstring_changes_the_digest(digests):
    [(before, after)] = digests("tables.py", '"same_line"', '"one_line"', "commbert.stages.pairs")
    assert before != after


def test_no_two_lists_of_parts_run_together():
    lists = [("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""), ()]
    assert len({digest(*parts) for parts in lists}) == len(lists)


def test_a_digest_is_sixteen_hexadecimal_digits_and_text_counts_as_utf8():
    assert digest("é") == digest("é".encode())
    assert len(digest()) == 16
    int(digest(), 16)


def test_the_digest_of_files_follows_their_bytes_and_order_but_not_their_names(tmp_path):
    for name, text in (("a", "1"), ("b", "2"), ("c", "1")):
        (tmp_path / name).write_text(text)
    a, b, c = (tmp_path / n for n in "abc")
    assert digest_of_files([a, b]) == digest_of_files([c, b])
    assert digest_of_files([a, b]) != digest_of_files([b, a])


def test_the_fingerprint_follows_names_and_bytes_but_not_times(tmp_path):
    file = tmp_path / "a"
    file.write_text("1")
    before = fingerprint_paths([file])
    file.touch()
    touched = fingerprint_paths([file])
    file.write_text("2")
    edited = fingerprint_paths([file])
    file.write_text("1")
    renamed = fingerprint_paths([file.rename(tmp_path / "b")])
    assert before == touched
    assert len({before, edited, renamed}) == 3


def test_a_file_that_vanished_changes_the_fingerprint(tmp_path):
    (tmp_path / "a").write_text("1")
    before = fingerprint_paths([tmp_path / "a"])
    (tmp_path / "a").unlink()
    assert fingerprint_paths([tmp_path / "a"]) != before


DATA_STAGES = ("ingest", "corpus", "lex", "words", "tokenizer", "windows", "draw", "pairs")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "old", "new", "stages"),
    [
        ("stages/ingest.py", "2**20", "2**19", {"ingest"}),
        ("stages/lex.py", "40_000", "10_000", {"lex"}),
        ("stages/windows.py", "2**64", "2**63", {"windows"}),
        ("stages/draw.py", '"counts.json"', '"n.json"', {"draw", "pairs"}),
        ("text/secrets.py", '"********"', '"****"', {"ingest", "corpus"}),
        ("corpus/splitting.py", "_OVERSHOOT = 1.3", "_OVERSHOOT = 1.4", {"corpus"}),
        ("leakage.py", "LONG_LINE_TOKENS = 8", "LONG_LINE_TOKENS = 9", {"windows"}),
        ("pairs/negatives.py", "_TRIES = 64", "_TRIES = 65", {"pairs"}),
    ],
)
def test_edited_code_reruns_the_data_stages_that_use_it_and_no_other(digests, file, old, new, stages):
    found = digests(file, old, new, *(f"commbert.stages.{stage}" for stage in DATA_STAGES))
    changed = {stage for stage, (before, after) in zip(DATA_STAGES, found, strict=True) if before != after}
    assert changed == stages


@pytest.fixture
def shards(tmp_path):
    """Gives a function: the fingerprints of a tree's shards as they are now."""
    tiny.source_tree(tmp_path / "tree", n_directories=12)
    source = PathSource(kind="path", name="a", path=str(tmp_path / "tree"), include=("*.py",), shards=4)
    return lambda: fingerprint_shards(source)


def test_a_changed_file_changes_the_fingerprint_of_one_shard(shards, tmp_path):
    before = shards()
    with (tmp_path / "tree/part4/module0.py").open("a") as file:
        file.write("x = 1\n")
    assert sum(a != b for a, b in zip(before, shards(), strict=True)) == 1


def test_a_touched_or_unselected_file_changes_the_fingerprint_of_no_shard(shards, tmp_path):
    before = shards()
    (tmp_path / "tree/part4/module0.py").touch()
    (tmp_path / "tree/part4/notes.md").write_text("new")
    assert shards() == before


def test_a_source_that_is_gone_counts_as_missing_in_every_shard(shards, tmp_path):
    (tmp_path / "tree").rename(tmp_path / "elsewhere")
    assert shards() == ("missing",) * 4


def test_the_folder_within_a_cache_is_that_of_the_libraries_versions(tmp_path, monkeypatch):
    first = cache_folder(str(tmp_path))
    assert Path(first).parent == tmp_path
    assert Path(first).is_dir()
    assert cache_folder(first) == first  # a job gets the result in its environment
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0" if name == "wordfreq" else version(name))
    assert Path(cache_folder(str(tmp_path))).parent == tmp_path
    assert cache_folder(str(tmp_path)) != first


def test_only_an_environment_that_names_a_cache_gets_our_folder_in_it(tmp_path):
    environment = {"HOME": "/"}
    assert not uses_cache(environment)
    assert environment == {"HOME": "/"}
    environment["SNAKEMAKE_OUTPUT_CACHE"] = str(tmp_path)
    assert uses_cache(environment)
    assert environment["SNAKEMAKE_OUTPUT_CACHE"] == cache_folder(str(tmp_path))


def test_a_cache_without_the_right_to_write_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("commbert.provenance.os.access", lambda *_: False)
    with pytest.raises(SettingsError, match=r"SNAKEMAKE_OUTPUT_CACHE=.*no right to write"):
        cache_folder(str(tmp_path))
