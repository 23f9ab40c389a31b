import contextlib
import hashlib
import io
import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from commbert import cli, tables
from commbert.corpus.sources import files_of, selection_of
from commbert.settings.corpus import CorpusSettings, PathSource
from commbert.settings.words import WordsSettings
from commbert.stages import ingest as ingest_stage
from commbert.stages import words as words_stage

# Root reads everything; without these two capabilities it reads what its file modes allow, as anyone else.
UNPRIVILEGED = (
    ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--inh-caps", "-dac_override,-dac_read_search"]
    if os.geteuid() == 0
    else []
)
needs_permissions = pytest.mark.skipif(
    bool(UNPRIVILEGED) and shutil.which("setpriv") is None, reason="root reads everything and there is no setpriv"
)


def commbert(*args, prefix=(), **options):
    """Run the command; in a process of its own where the test asks for one by its options, else in this one."""
    command = ["-m", "commbert", *map(str, args)]
    if prefix or options:
        command = [*prefix, sys.executable, *command]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)
    logger, stderr, argv = logging.getLogger("commbert"), io.StringIO(), sys.argv
    before = logger.handlers, logger.level, logger.propagate
    logger.handlers = []
    try:
        sys.argv = command[1:]
        with contextlib.redirect_stderr(stderr), pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        sys.argv = argv
        for handler in logger.handlers:
            handler.close()
        logger.handlers, logger.level, logger.propagate = before
    return subprocess.CompletedProcess(command, ended.value.code, "", stderr.getvalue())


def path_source(path, **changes):
    return {"kind": "path", "name": "mine", "path": str(path), **changes}


def ingest(out, settings, *more, **options):
    text = settings if isinstance(settings, str) else json.dumps(settings)
    outputs = [f"--{n}-out={out / n}" for n in ("files", "lines", "summary")]
    return commbert("ingest", "--settings", text, *outputs, *more, **options)


def assert_refused(done, out, *expected):
    """Exit code 1, a message that names what is wrong, no traceback, and no output."""
    assert done.returncode == 1, done.stderr
    for text in expected:
        assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert "unexpected error" not in done.stderr
    assert not out.exists() or [p for p in out.rglob("*") if p.is_file()] == []


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def tree(tmp_path):
    folder = tmp_path / "tree"
    for i in range(4):
        (folder / f"d{i}").mkdir(parents=True)
        (folder / f"d{i}" / "f.py").write_text(f"harq_{i} = rlc_{i}(mac)\n")
    return folder


@pytest.fixture
def corpus(tree, tmp_path):
    """Return the tables of a small corpus."""
    source = PathSource(kind="path", name="mine", path=str(tree))
    files, lines = tmp_path / "files.parquet", tmp_path / "lines.parquet"
    ingest_stage.run(
        CorpusSettings(sources=(source,)), wheels={}, files_out=files, lines_out=lines, summary_out=tmp_path / "s.json"
    )
    return files, lines


def words(out, files, lines, **settings):
    outputs = [f"--{n}-out={out / n}" for n in ("words", "line-words", "english", "summary")]
    return commbert("words", "--settings", json.dumps(settings), "--files", files, "--lines", lines, *outputs)


def test_a_misspelt_setting_is_named_with_the_right_one(tree, out):
    done = ingest(out, {"sources": [path_source(tree)], "max_file_mb": 1.0}, cwd=tree)
    assert_refused(done, out, "corpus max_file_mb: unknown setting. Did you mean max_file_mib?")


@pytest.mark.parametrize("text", ["", "{", "[]", "@nowhere.json", "nowhere.json"])
def test_settings_that_are_no_json_are_refused(out, text):
    assert_refused(ingest(out, text), out, "error: ")


def test_a_settings_file_that_is_no_text_is_refused(tmp_path, out):
    (tmp_path / "s.json").write_bytes(b"\xff\xfe{}")
    assert_refused(ingest(out, str(tmp_path / "s.json")), out, "s.json")


def test_a_missing_source_is_named_with_its_path_and_setting(tmp_path, out):
    done = ingest(out, {"sources": [path_source(tmp_path / "nowhere")]}, cwd=tmp_path)
    assert_refused(done, out, "source mine", "nowhere", "corpus.sources[].path")


def test_a_source_without_a_usable_file_is_named_with_what_was_found(tree, out):
    done = ingest(out, {"sources": [path_source(tree, include=["*.c"])]})
    assert_refused(done, out, "source mine: expected at least one usable file, found 4 not included", "include")


def test_one_empty_source_beside_a_good_one_is_named(tree, tmp_path, out):
    (tmp_path / "empty").mkdir()
    done = ingest(out, {"sources": [path_source(tree), {**path_source(tmp_path / "empty"), "name": "other"}]})
    assert_refused(done, out, "source other: expected at least one usable file, found no file at all")


def wheel_source(tmp_path, **changes):
    wheel = tmp_path / "w.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for i in range(4):
            archive.writestr(f"p/d{i}/f.py", f"harq_{i} = rlc_{i}(mac)\n")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return wheel, {"kind": "wheel", "name": "mine", "package": "p", "version": "1.0", "sha256": digest, **changes}


def test_a_wheel_of_another_digest_is_refused_with_both_digests(tmp_path, out):
    wheel, source = wheel_source(tmp_path, sha256="0" * 64)
    done = ingest(out, {"sources": [source]}, f"--wheel=mine={wheel}")
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert_refused(done, out, f"source mine: expected sha256 {'0' * 64}, found {found}", "change sha256 only if")


def test_a_wheel_that_was_not_fetched_is_asked_for(tmp_path, out):
    _, source = wheel_source(tmp_path)
    assert_refused(ingest(out, {"sources": [source]}), out, "source mine: the wheel was not fetched")


def test_a_corpus_of_one_file_is_refused_with_the_number_it_needs(tree, out):
    done = ingest(out, {"sources": [path_source(tree / "d0")]})
    assert_refused(done, out, "expected at least 3 usable files, one per split, found 1", "corpus.sources[].include")


@needs_permissions
def test_an_unreadable_folder_is_named_as_unreadable(tree, out):
    tree.chmod(0)
    try:
        done = ingest(out, {"sources": [path_source(tree)]}, prefix=UNPRIVILEGED)
    finally:
        tree.chmod(0o700)
    assert_refused(done, out, "source mine", "unreadable folder (Permission denied)")


@needs_permissions
def test_an_unreadable_folder_is_named_as_unreadable_whatever_is_included(tree, out):
    tree.chmod(0)
    try:
        done = ingest(out, {"sources": [path_source(tree, include=["*.py"])]}, prefix=UNPRIVILEGED)
    finally:
        tree.chmod(0o700)
    assert_refused(done, out, "source mine", "unreadable folder (Permission denied)")


@needs_permissions
def test_an_unreadable_file_is_left_out_and_accounted_for(tree, out):
    (tree / "d0" / "f.py").chmod(0)
    done = ingest(out, {"sources": [path_source(tree)]}, prefix=UNPRIVILEGED)
    assert done.returncode == 0, done.stderr
    account = json.loads((out / "summary").read_text(encoding="utf-8"))["accounting"]
    assert account["unreadable (Permission denied)"]["files"] == 1


def test_an_output_that_cannot_be_written_is_named(tree, tmp_path):
    (tmp_path / "file").write_text("no folder")
    done = ingest(tmp_path / "file", {"sources": [path_source(tree)]})
    assert done.returncode == 1
    assert str(tmp_path / "file") in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "file").read_text() == "no folder"


def limited_to_1000_bytes():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))


def test_a_full_disk_is_named_and_leaves_no_half_file(tree, out):
    done = ingest(out, {"sources": [path_source(tree)]}, preexec_fn=limited_to_1000_bytes)
    assert_refused(done, out, "the disk is full", str(out / "files"))


def test_control_characters_of_a_path_do_not_reach_the_terminal(out):
    done = ingest(out, {"sources": [path_source("no\x1b[31mwhere\r")]})
    assert_refused(done, out)
    assert "\x1b" not in done.stderr
    assert "\r" not in done.stderr


def test_the_message_stands_in_the_log_too(tmp_path, out):
    ingest(out, {"sources": [path_source(tmp_path / "nowhere")]}, "--log", tmp_path / "log.txt")
    assert "source mine" in (tmp_path / "log.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(("line", "n"), [("alpha\n", 1), ("1 + 1\n", 0)], ids=["one word", "no word"])
def test_a_corpus_with_fewer_than_two_words_is_refused_with_their_number(tmp_path, out, line, n):
    for i in range(4):
        (tmp_path / "few" / f"d{i}").mkdir(parents=True)
        (tmp_path / "few" / f"d{i}" / "f.py").write_text(line * (i + 1))
    assert ingest(tmp_path, {"sources": [path_source(tmp_path / "few")]}).returncode == 0
    done = words(out, tmp_path / "files", tmp_path / "lines")
    assert_refused(done, out, f"expected at least 2 distinct words in the training split, found {n}", "words.pattern")


def test_a_damaged_table_is_named(corpus, out):
    files, lines = corpus
    data = bytearray(lines.read_bytes())
    data[40] ^= 0xFF
    lines.write_bytes(data)
    assert_refused(words(out, files, lines), out, "lines.parquet")


def test_the_wrong_table_is_named_with_the_right_one(corpus, out):
    files, _ = corpus
    done = words(out, files, files)
    assert_refused(done, out, "files.parquet: expected commbert.table = corpus/lines, found corpus/files")


def test_a_table_of_another_program_is_refused(corpus, out):
    files, lines = corpus
    pq.write_table(pq.read_table(lines).replace_schema_metadata(None), lines)
    assert_refused(
        words(out, files, lines), out, "lines.parquet: expected commbert.table = corpus/lines, found nothing"
    )


def test_a_missing_table_is_named(corpus, tmp_path, out):
    assert_refused(words(out, corpus[0], tmp_path / "none.parquet"), out, "none.parquet")


def base(out, source):
    return commbert("base", "--source", source if isinstance(source, str) else json.dumps(source), "--out", out)


@pytest.mark.parametrize("text", ["{", "", "[]", "null"])
def test_a_base_model_source_that_is_no_json_mapping_is_refused(out, text):
    assert_refused(base(out, text), out, "model")


def test_a_base_model_that_is_not_there_is_named(tmp_path, out):
    done = base(out, {"kind": "path", "path": str(tmp_path / "nowhere")})
    assert_refused(done, out, "model.base.path: expected a folder", "nowhere")


def test_a_base_model_with_pickled_weights_only_is_refused(tmp_path, out):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "pytorch_model.bin").write_bytes(b"x")
    done = base(out, {"kind": "path", "path": str(tmp_path / "b")})
    assert_refused(done, out, "pickled weights only")


def test_a_folder_that_vanishes_during_the_walk_is_no_crash(tree, monkeypatch):
    source = PathSource(kind="path", name="mine", path=str(tree))
    scandir = os.scandir

    def vanish(path):
        if Path(path).name == "d2":
            tree.joinpath("d2").rename(tree.parent / "gone")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", vanish)
    found = {f.path: f.reason for f in files_of(source, None, selection_of(source, 0), max_bytes=1000)}
    assert found["d2"] == "unreadable folder (No such file or directory)"


def test_a_file_that_vanishes_during_the_walk_is_no_crash(tree, monkeypatch):
    source = PathSource(kind="path", name="mine", path=str(tree))
    scandir = os.scandir

    def vanish(path):
        entries = list(scandir(path))
        if Path(path).name == "d2":
            (Path(path) / "f.py").unlink()
        return iter(entries)

    monkeypatch.setattr(os, "scandir", vanish)
    found = {f.path: f.reason for f in files_of(source, None, selection_of(source, 0), max_bytes=1000)}
    assert found["d2/f.py"].startswith("unreadable")


def test_lines_without_two_words_give_an_empty_table_and_no_crash(tmp_path):
    for i in range(4):
        (tmp_path / "t" / f"d{i}").mkdir(parents=True)
        (tmp_path / "t" / f"d{i}" / "f.py").write_text(f"alpha\nbeta\n{i}\n")
    paths = {n: tmp_path / n for n in ("files_out", "lines_out", "summary_out")}
    source = PathSource(kind="path", name="mine", path=str(tmp_path / "t"))
    ingest_stage.run(CorpusSettings(sources=(source,)), wheels={}, **paths)
    outputs = {n: tmp_path / n for n in ("words_out", "line_words_out", "english_out", "summary_out")}
    found = words_stage.run(
        WordsSettings(english_words=100), files=paths["files_out"], lines=paths["lines_out"], **outputs
    )
    assert found["lines_with_two_words"] == 0
    assert tables.read(tmp_path / "line_words_out", tables.LINE_WORDS).num_rows == 0
