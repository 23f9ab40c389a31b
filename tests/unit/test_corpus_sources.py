import os
import socket

import pytest

from commbert.corpus.fingerprints import fingerprint_sources
from commbert.corpus.sources import files_of, paths_of
from commbert.errors import SourceError
from commbert.settings.corpus import CorpusSettings, PathSource


def source(path, **changes):
    return PathSource(kind="path", name="s", path=str(path), **changes)


def read(path, *, max_bytes=1000, **changes):
    return list(files_of(source(path, **changes), None, max_bytes=max_bytes))


def reasons(path, **changes):
    return {f.path: f.reason for f in read(path, **changes)}


@pytest.fixture
def tree(tmp_path):
    folder = tmp_path / "tree"
    for name in ("b.py", "a/z.py", "a/b/c.txt", "A.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def test_files_come_sorted_by_the_bytes_of_their_paths(tree):
    assert [f.path for f in read(tree)] == ["A.py", "a/b/c.txt", "a/z.py", "b.py"]


def test_the_order_in_which_a_directory_lists_its_files_does_not_matter(tree, monkeypatch):
    forwards = read(tree)
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda p: iter(sorted(scandir(p), key=lambda e: e.name, reverse=True)))
    assert read(tree) == forwards


def test_a_read_file_carries_its_bytes_and_size(tree):
    [file] = [f for f in read(tree) if f.path == "b.py"]
    assert (file.source, file.n_bytes, file.data, file.reason) == ("s", 4, b"b.py", "")


def test_patterns_leave_out_what_is_not_included_or_excluded(tree):
    found = reasons(tree, include=("*.py",), exclude=("a/",))
    assert found == {"A.py": "", "a/b/c.txt": "not included", "a/z.py": "excluded", "b.py": ""}


def test_a_file_left_out_is_not_read_but_its_bytes_count(tree):
    [file] = [f for f in read(tree, include=("*.py",)) if f.reason]
    assert (file.n_bytes, file.data) == (len("a/b/c.txt"), None)


def test_a_link_to_a_file_outside_is_not_followed(tree, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (tree / "link.py").symlink_to(tmp_path / "secret")
    [file] = [f for f in read(tree) if f.path == "link.py"]
    assert (file.data, file.n_bytes, file.reason) == (None, 0, "symbolic link")


def test_a_link_to_a_folder_outside_is_not_followed(tree, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.py").write_text("x")
    (tree / "link").symlink_to(tmp_path / "other")
    assert reasons(tree)["link"] == "symbolic link"
    assert not any("x.py" in path for path in reasons(tree))


def test_a_loop_of_links_ends(tree):
    (tree / "a" / "loop").symlink_to(tree)
    (tree / "self").symlink_to("self")
    found = reasons(tree)
    assert (found["a/loop"], found["self"], len(found)) == ("symbolic link", "symbolic link", 6)


def test_a_file_that_becomes_a_link_after_the_walk_is_not_followed(tree, tmp_path):
    (tmp_path / "secret").write_text("secret")
    files = files_of(source(tree), None, max_bytes=100)
    assert next(files).path == "A.py"
    (tree / "b.py").unlink()
    (tree / "b.py").symlink_to(tmp_path / "secret")
    last = list(files)[-1]
    assert (last.path, last.data) == ("b.py", None)
    assert last.reason.startswith("unreadable")


def test_a_file_that_vanishes_after_the_walk_is_reported_unreadable(tree):
    files = files_of(source(tree), None, max_bytes=100)
    next(files)
    (tree / "b.py").unlink()
    last = list(files)[-1]
    assert (last.path, last.n_bytes, last.reason) == ("b.py", 0, "unreadable (No such file or directory)")


def test_a_fifo_is_passed_over_without_waiting(tree):
    os.mkfifo(tree / "fifo.py")
    assert reasons(tree)["fifo.py"] == "not a regular file"


def test_a_file_that_becomes_a_fifo_after_the_walk_does_not_hang(tree):
    files = files_of(source(tree), None, max_bytes=100)
    next(files)
    (tree / "b.py").unlink()
    os.mkfifo(tree / "b.py")
    assert list(files)[-1].reason == "not a regular file"


def test_a_socket_is_passed_over(tree, monkeypatch):
    monkeypatch.chdir(tree)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.py")
        assert reasons(tree)["s.py"] == "not a regular file"


def test_a_name_that_is_no_utf8_is_shown_escaped_and_read(tree):
    (tree / os.fsdecode(b"n\xff.py")).write_text("x")
    [file] = [f for f in read(tree) if f.path == "n\\xff.py"]
    assert file.data == b"x"


def test_a_file_of_the_limit_is_read_and_one_byte_more_is_too_large(tmp_path):
    (tmp_path / "a.py").write_bytes(b"x" * 10)
    (tmp_path / "b.py").write_bytes(b"x" * 11)
    small, large = read(tmp_path, max_bytes=10)
    assert (small.reason, len(small.data)) == ("", 10)
    assert (large.reason, large.n_bytes, large.data) == ("too large", 11, None)


@pytest.mark.parametrize("folder", [".git", ".hg", ".svn", "__pycache__"])
def test_folders_of_version_control_and_caches_are_not_entered(tree, folder):
    (tree / "a" / folder).mkdir()
    (tree / "a" / folder / "x.py").write_text("x")
    assert len(read(tree)) == 4


def test_a_tree_of_three_hundred_levels_is_walked(tmp_path):
    deep = tmp_path.joinpath(*["d"] * 300)
    deep.mkdir(parents=True)
    (deep / "x.py").write_text("x")
    assert [f.path for f in read(tmp_path)] == ["d/" * 300 + "x.py"]


def test_one_file_is_a_source(tree):
    assert [f.path for f in read(tree / "b.py")] == ["b.py"]


def test_a_glob_pattern_names_each_file_once(tree):
    names = sorted(f.path.rpartition("/")[2] for f in read(tree / "**" / "*.py"))
    assert names == ["A.py", "b.py", "z.py"]


def test_a_source_folder_that_is_itself_a_link_is_read(tree, tmp_path):
    (tmp_path / "link").symlink_to(tree)
    assert [f.path for f in read(tmp_path / "link")] == [f.path for f in read(tree)]


def test_a_path_that_matches_nothing_names_source_and_path(tmp_path):
    with pytest.raises(SourceError, match=r"source s: expected a file, folder or glob pattern .* '.*nothing\*'"):
        read(tmp_path / "nothing*")


@pytest.mark.parametrize("pattern", ["*/z.py", "*/sub", "?/s*"])
def test_two_files_of_a_glob_keep_different_names(tree, pattern):
    for folder in ("a", "c"):
        (tree / folder / "sub").mkdir(parents=True)
        (tree / folder / "sub" / "y.py").write_text(folder)
        (tree / folder / "z.py").write_text(folder)
    paths = [f.path for f in read(tree / pattern)]
    assert len(set(paths)) == len(paths) == 2


def test_a_glob_that_matches_one_folder_gives_names_below_it(tree):
    (tree / "c" / "sub").mkdir(parents=True)
    (tree / "c" / "sub" / "y.py").write_text("y")
    [path] = [f.path for f in read(tree / "?" / "sub")]
    assert path.endswith("y.py")
    assert ".." not in path


def test_the_paths_for_the_fingerprint_are_those_that_are_read(tree):
    (tree / "link.py").symlink_to(tree / "b.py")
    chosen = source(tree, include=("*.py",))
    assert [p.name for p in paths_of(chosen)] == ["A.py", "z.py", "b.py"]


def test_the_fingerprint_follows_what_is_read_and_nothing_else(tree):
    settings = CorpusSettings(sources=(source(tree, include=("*.py",)),))
    before = fingerprint_sources(settings)
    (tree / "a" / "b" / "c.txt").write_text("changed, but not included")
    unchanged = fingerprint_sources(settings)
    (tree / "b.py").write_text("changed")
    assert before == unchanged
    assert before != fingerprint_sources(settings)


def test_a_missing_source_has_a_fingerprint(tmp_path):
    settings = CorpusSettings(sources=(source(tmp_path / "none"),))
    assert len(fingerprint_sources(settings)) == 16
