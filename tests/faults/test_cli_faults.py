import hashlib
import json
import os
import resource
import shutil
import signal
import zipfile
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import data_case
import tiny
import tiny_stages
from cli_case import assert_refused, commbert
from commbert import tables
from commbert.corpus.sources import files_of, selection_of
from commbert.settings.corpus import PathSource, SplitSettings
from commbert.stages.draw import DRAWN

# Root reads everything; without these two capabilities it reads what its file modes allow, as anyone else.
UNPRIVILEGED = (
    ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--inh-caps", "-dac_override,-dac_read_search"]
    if os.geteuid() == 0
    else []
)
needs_permissions = pytest.mark.skipif(
    bool(UNPRIVILEGED) and shutil.which("setpriv") is None, reason="root reads everything and there is no setpriv"
)


def path_source(path, **changes):
    return {"kind": "path", "name": "mine", "path": str(path), **changes}


def ingest(out, settings, *more, **options):
    """Run ``ingest`` on one shard."""
    text = settings if isinstance(settings, str) else json.dumps(settings)
    outputs = [f"--{n}-out={out / n}" for n in ("files", "lines", "summary")]
    return commbert("ingest", "--settings", text, *outputs, *more, **options)


def shard(source, **cleaning):
    return {"source": source, "cleaning": cleaning}


def gather(out, *sources, folder, **settings):
    """Run ``corpus`` on sources of one shard each, which were read into folders of their names."""
    shards = [f"--shard-{n}={folder / s['name'] / name}" for s in sources for n, name in (("files", "files"),)]
    shards += [f"--shard-summary={folder / s['name'] / 'summary'}" for s in sources]
    outputs = [f"--{n}-out={out / n}" for n in ("files", "shards", "summary")]
    text = json.dumps({"sources": list(sources), **settings})
    return commbert("corpus", "--settings", text, *shards, *outputs)


def read_and_gather(out, *sources, folder):
    for source in sources:
        done = ingest(folder / source["name"], shard(source))
        assert done.returncode == 0, done.stderr
    return gather(out, *sources, folder=folder)


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


def test_a_misspelt_setting_is_named_with_the_right_one(tree, out):
    done = ingest(out, shard(path_source(tree), max_file_mb=1.0), cwd=tree)
    assert_refused(done, out, "corpus cleaning.max_file_mb: unknown setting. Did you mean cleaning.max_file_mib?")


@pytest.mark.parametrize("text", ["", "{", "[]", "@nowhere.json", "nowhere.json"])
def test_settings_that_are_no_json_are_refused(out, text):
    assert_refused(ingest(out, text), out, "error: ")


def test_a_settings_file_that_is_no_text_is_refused(tmp_path, out):
    (tmp_path / "s.json").write_bytes(b"\xff\xfe{}")
    assert_refused(ingest(out, str(tmp_path / "s.json")), out, "s.json")


def test_a_missing_source_is_named_with_its_path_and_setting(tmp_path, out):
    done = ingest(out, shard(path_source(tmp_path / "nowhere")), cwd=tmp_path)
    assert_refused(done, out, "source mine", "nowhere", "corpus.sources[].path")


def test_a_source_without_a_usable_file_is_named_with_what_was_found(tree, tmp_path, out):
    done = read_and_gather(out, path_source(tree, include=["*.c"]), folder=tmp_path / "shards")
    assert_refused(done, out, "source mine: expected at least one usable file, found 4 not included", "include")


def test_one_empty_source_beside_a_good_one_is_named(tree, tmp_path, out):
    (tmp_path / "empty").mkdir()
    sources = [path_source(tree), {**path_source(tmp_path / "empty"), "name": "other"}]
    done = read_and_gather(out, *sources, folder=tmp_path / "shards")
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
    done = ingest(out, shard(source), f"--fetched={wheel}")
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert_refused(done, out, f"source mine: expected sha256 {'0' * 64}, found {found}", "change sha256 only if")


def test_a_wheel_that_was_not_fetched_is_asked_for(tmp_path, out):
    _, source = wheel_source(tmp_path)
    assert_refused(ingest(out, shard(source)), out, "source mine: the wheel was not fetched")


def test_a_corpus_of_one_file_is_refused_with_the_number_it_needs(tree, tmp_path, out):
    done = read_and_gather(out, path_source(tree / "d0"), folder=tmp_path / "shards")
    assert_refused(done, out, "expected at least 3 usable files, one per split, found 1", "corpus.sources[].include")


@needs_permissions
def test_an_unreadable_folder_is_named_as_unreadable(tree, tmp_path, out):
    tree.chmod(0)
    try:
        read = ingest(tmp_path / "shards" / "mine", shard(path_source(tree)), prefix=UNPRIVILEGED)
    finally:
        tree.chmod(0o700)
    assert read.returncode == 0, read.stderr
    done = gather(out, path_source(tree), folder=tmp_path / "shards")
    assert_refused(done, out, "source mine", "unreadable folder (Permission denied)")


@needs_permissions
def test_an_unreadable_folder_is_named_as_unreadable_whatever_is_included(tree, tmp_path, out):
    source = path_source(tree, include=["*.py"])
    tree.chmod(0)
    try:
        read = ingest(tmp_path / "shards" / "mine", shard(source), prefix=UNPRIVILEGED)
    finally:
        tree.chmod(0o700)
    assert read.returncode == 0, read.stderr
    done = gather(out, source, folder=tmp_path / "shards")
    assert_refused(done, out, "source mine", "unreadable folder (Permission denied)")


@needs_permissions
def test_an_unreadable_file_is_left_out_and_accounted_for(tree, tmp_path, out):
    (tree / "d0" / "f.py").chmod(0)
    read = ingest(tmp_path / "shards" / "mine", shard(path_source(tree)), prefix=UNPRIVILEGED)
    assert read.returncode == 0, read.stderr
    done = gather(out, path_source(tree), folder=tmp_path / "shards")
    assert done.returncode == 0, done.stderr
    account = json.loads((out / "summary").read_text(encoding="utf-8"))["accounting"]
    assert account["unreadable (Permission denied)"]["files"] == 1


def test_an_output_that_cannot_be_written_is_named(tree, tmp_path):
    (tmp_path / "file").write_text("no folder")
    done = ingest(tmp_path / "file", shard(path_source(tree)))
    assert done.returncode == 1
    assert str(tmp_path / "file") in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "file").read_text() == "no folder"


def limited_to_1000_bytes():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))


def test_a_full_disk_is_named_and_leaves_no_half_file(tree, out):
    done = ingest(out, shard(path_source(tree)), preexec_fn=limited_to_1000_bytes)
    assert_refused(done, out, "the disk is full", str(out / "lines"))


def test_control_characters_of_a_path_do_not_reach_the_terminal(out):
    done = ingest(out, shard(path_source("no\x1b[31mwhere\r")))
    assert_refused(done, out)
    assert "\x1b" not in done.stderr
    assert "\r" not in done.stderr


def test_the_message_stands_in_the_log_too(tmp_path, out):
    ingest(out, shard(path_source(tmp_path / "nowhere")), "--log", tmp_path / "log.txt")
    assert "source mine" in (tmp_path / "log.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(("line", "n"), [("alpha\n", 1), ("1 + 1\n", 0)], ids=["one word", "no word"])
def test_a_corpus_with_fewer_than_two_words_is_refused_with_their_number(tmp_path, base_folder, line, n):
    for i in range(4):
        (tmp_path / "few" / f"d{i}").mkdir(parents=True)
        (tmp_path / "few" / f"d{i}" / "f.py").write_text(line * (i + 1))
    made = dict(data_case.commands(tmp_path, settings_of_tree(tmp_path / "few", shards=1), base_folder))
    for name in ("ingest.mine-00000-of-00001", "corpus", "lex.mine-00000-of-00001"):
        assert commbert(*made[name]).returncode == 0
    done = commbert(*made["words"])
    expected = f"expected at least 2 distinct words in the training split, found {n}"
    assert_refused(done, tmp_path / "none", expected, "words.pattern")
    assert not list(tmp_path.rglob("words.json"))


# -- Every data stage --------------------------------------------------------------------------------------------------

STAGES = {
    "corpus": ("--shard-files", "--shard-summary"),
    "lex": ("--base", "--lines"),
    "words": ("--files", "--shards", "--lexed"),
    "tokenizer": ("--base", "--files", "--shards", "--lexed", "--corpus-words", "--english"),
    "windows": ("--files", "--shards", "--lexed", "--tokenizer"),
    "draw": ("--files", "--shards", "--lexed", "--words"),
    "list-windows": ("--train", "--validation", "--test", "--hashes", "--shard-summary"),
    "pairs": ("--files", "--drawn", "--words"),
    "functions": ("--files", "--shards", "--lines"),
}
"""Stages that read what others wrote, with the options of their inputs."""
DIGESTED = [("pairs", "--files")]
"""Inputs of which only the digest is entered in the outputs."""
CASES = [(stage, option) for stage, options in STAGES.items() for option in options]


def settings_of_tree(tree, shards):
    source = PathSource(kind="path", name="mine", path=str(tree), shards=shards)
    return data_case.settings_of(source, split=SplitSettings(validation=0.2, test=0.2))


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "base"
    tiny.write_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def finished_data(tmp_path_factory, base_folder):
    """The data stages of a small tree."""
    folder = tmp_path_factory.mktemp("data")
    tree = tiny.source_tree(folder / "tree", n_directories=4)
    tiny_stages.run_data(folder / "results", settings_of_tree(tree, 2), base_folder)
    return folder


@pytest.fixture
def results(finished_data, base_folder, tmp_path):
    """A copy of the results and the base, to be damaged, with the command of each job."""
    copy = shutil.copytree(finished_data / "results", tmp_path / "results")
    shutil.copytree(base_folder, tmp_path / "base")
    settings = settings_of_tree(finished_data / "tree", 2)
    return copy, dict(data_case.commands(copy, settings, tmp_path / "base"))


def command_of(made, stage):
    return next(command for name, command in made.items() if name.split(".")[0] == stage)


def outputs_of(command):
    paths = [Path(value) for option, value in pairwise(command) if option.endswith("-out") or option == "--out"]
    return {path: path.read_bytes() for p in paths for path in ([p] if p.is_file() else sorted(p.rglob("*.*")))}


def assert_nothing_replaced(done, command, before, root, *expected):
    """Exit code 1, one or two lines without a traceback, the outputs as they were, nothing half-written."""
    assert done.returncode == 1, done.stderr
    assert 1 <= len(done.stderr.strip().splitlines()) <= 2, done.stderr
    assert done.stderr.startswith("error: ")
    for text in expected:
        assert text in done.stderr
    assert {path: path.read_bytes() for path in before} == before
    assert list(root.rglob(".*")) == []


def tables_below(path):
    """Return the Parquet files of an input that the stage reads of it first."""
    return [path] if path.is_file() else sorted(path.glob("*.parquet")) or [path / "tokenizer.json"]


@pytest.mark.parametrize(("stage", "option"), CASES)
def test_an_input_that_is_missing_is_named(results, stage, option):
    root, made = results
    command = command_of(made, stage)
    path = Path(command[command.index(option) + 1])
    before = outputs_of(command)
    path.rename(path.with_name("gone"))
    done = commbert(*command)
    shutil.move(path.with_name("gone"), path)
    assert_nothing_replaced(done, command, before, root, path.name)


@pytest.mark.parametrize(("stage", "option"), [case for case in CASES if case not in DIGESTED])
def test_an_input_that_is_damaged_is_named(results, stage, option):
    root, made = results
    command = command_of(made, stage)
    path = Path(command[command.index(option) + 1])
    before = outputs_of(command)
    for part in tables_below(path):
        part.write_bytes(part.read_bytes()[:-30])
    done = commbert(*command)
    unread = {path for path in before if path.is_relative_to(command[command.index(option) + 1])}
    assert_nothing_replaced(done, command, {p: b for p, b in before.items() if p not in unread}, root, path.name)


NO_TABLES = ("--base", "--tokenizer", "--english", "--shards", "--shard-summary")
TABLE_CASES = [case for case in CASES if case not in DIGESTED and case[1] not in NO_TABLES]


@pytest.mark.parametrize(("stage", "option"), TABLE_CASES)
def test_an_input_that_is_another_table_is_named_with_the_right_one(results, stage, option):
    root, made = results
    command = command_of(made, stage)
    path = Path(command[command.index(option) + 1])
    before = outputs_of(command)
    other = root / "pairs" / "known.parquet"
    for part in tables_below(path):
        shutil.copyfile(other, part)
    done = commbert(*command)
    assert_nothing_replaced(done, command, before, root, "expected commbert.table = ", "found pairs/known")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["ingest", *STAGES])
def test_a_full_disk_leaves_the_outputs_of_every_stage_as_they_were(results, stage):
    root, made = results
    command = command_of(made, stage)
    before = outputs_of(command)
    assert before

    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))

    done = commbert(*command, preexec_fn=limited)
    done.stderr = "".join(line for line in done.stderr.splitlines(True) if not is_known_warning(line))
    assert_nothing_replaced(done, command, before, root, "the disk is full")


def is_known_warning(line):
    """Return whether a line is of the library's warning, which test_stages_sources claims is not there."""
    return not line.strip() or line.startswith(("DeprecationWarning: `is_in`", "Please use `implode`", "See https"))


def test_a_damaged_page_of_a_table_is_named(results):
    root, made = results
    command = command_of(made, "lex")
    lines = Path(command[command.index("--lines") + 1])
    data = bytearray(lines.read_bytes())
    data[40] ^= 0xFF
    lines.write_bytes(data)
    assert_nothing_replaced(commbert(*command), command, outputs_of(command), root, "lines.parquet")


def test_a_table_of_another_program_is_refused(results):
    root, made = results
    command = command_of(made, "lex")
    lines = Path(command[command.index("--lines") + 1])
    pq.write_table(pq.read_table(lines).replace_schema_metadata(None), lines)
    expected = "lines.parquet: expected commbert.table = shard/lines, found nothing"
    assert_nothing_replaced(commbert(*command), command, outputs_of(command), root, expected)


def test_a_gathering_of_pairs_that_finds_none_says_so_and_leaves_empty_tables(results):
    root, made = results
    settings = json.dumps({"subsample": 1e-12})
    for name, command in made.items():
        if name.startswith("draw."):
            command[command.index("--settings") + 1] = settings
            assert commbert(*command).returncode == 0
    command = made["pairs"]
    command[command.index("--settings") + 1] = settings
    done = commbert(*command)
    assert done.returncode == 0, done.stderr
    assert "no two words share a training line: there are no pairs" in done.stderr
    assert tables.read(root / "pairs" / "train.parquet", tables.PAIRS).num_rows == 0


def test_a_gathering_of_fewer_shards_than_the_sources_have_is_refused(results):
    root, made = results
    command = list(made["corpus"])
    for option in ("--shard-files", "--shard-summary"):
        at = command.index(option)
        del command[at : at + 2]
    before = outputs_of(command)
    assert_nothing_replaced(commbert(*command), command, before, root, "expected 2 shards", "found 1")


@pytest.mark.parametrize("stage", ["ingest", *STAGES])
def test_a_stage_that_is_run_again_makes_the_same_bytes(results, stage):
    _, made = results
    command = command_of(made, stage)
    before = outputs_of(command)
    assert before
    assert commbert(*command).returncode == 0
    assert outputs_of(command) == before


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


def test_lines_without_two_words_give_an_empty_table_and_no_crash(tmp_path, base_folder):
    for i in range(4):
        (tmp_path / "t" / f"d{i}").mkdir(parents=True)
        (tmp_path / "t" / f"d{i}" / "f.py").write_text(f"alpha\nbeta\n{i}\n")
    settings = settings_of_tree(tmp_path / "t", 1)
    made = dict(data_case.commands(tmp_path, settings, base_folder))
    for name, command in made.items():
        if name == "pairs":
            break
        done = commbert(*command)
        assert done.returncode == 0, done.stderr
    found = tables.read(tmp_path / "draws" / "mine-00000-of-00001" / DRAWN, tables.DRAWN)
    assert found.num_rows == 0
    done = commbert(*made["pairs"])
    assert done.returncode == 0, done.stderr
    assert "no two words share a training line: there are no pairs" in done.stderr


@pytest.mark.parametrize("kind", ["path", "table"])
def test_a_source_that_lies_here_is_not_fetched(tmp_path, out, kind):
    source = path_source(tmp_path, kind=kind)
    if kind == "table":
        source |= {"template": "{a}", "sha256": "0" * 64}
    done = commbert("fetch", "--source", json.dumps(source), "--out", out)
    assert_refused(done, out, "source mine: lies on this machine; there is nothing to fetch")


def test_an_archive_that_was_not_downloaded_is_asked_for(tmp_path, out):
    source = {"kind": "archive", "name": "mine", "url": "https://example.org/a.zip", "sha256": "0" * 64}
    done = commbert("fetch", "--source", json.dumps(source), "--out", out)
    assert_refused(done, out, "source mine: expected the downloaded archive: give it as --from FILE")


def test_a_downloaded_archive_of_another_digest_is_refused(tmp_path, out):
    (tmp_path / "a.zip").write_bytes(b"something")
    source = {"kind": "archive", "name": "mine", "url": "https://example.org/a.zip", "sha256": "0" * 64}
    done = commbert("fetch", "--source", json.dumps(source), "--from", tmp_path / "a.zip", "--out", out)
    found = hashlib.sha256(b"something").hexdigest()
    assert_refused(done, out, f"source mine: expected sha256 {'0' * 64}, found {found}")


@pytest.mark.parametrize(
    ("url", "expected"),
    [("https://elsewhere.org/x", "elsewhere.org"), ("file:///nowhere", "file"), ("ext::sh -c id", "mine")],
)
def test_a_repository_from_an_address_that_is_not_allowed_is_refused(out, url, expected):
    source = {"kind": "git", "name": "mine", "url": url, "commit": "0" * 40}
    done = commbert("fetch", "--source", json.dumps(source), "--out", out)
    assert_refused(done, out, "source mine", expected)


@pytest.mark.parametrize("text", ["{", "", "[]", "null"])
def test_a_source_to_fetch_that_is_no_json_mapping_is_refused(out, text):
    assert_refused(commbert("fetch", "--source", text, "--out", out), out, "corpus")
