import os
import random
import resource
import socket
import stat
import time

import pytest

from commbert.corpus import fingerprints, trees
from commbert.corpus.fingerprints import fingerprint_shard, fingerprint_shards
from commbert.corpus.selection import Selection
from commbert.corpus.sources import files_of, paths_of, selection_of, source_digest
from commbert.errors import SourceError
from commbert.settings.corpus import ArchiveSource, GitSource, PathSource, TableSource


def source(path, **changes):
    return PathSource(kind="path", name="s", path=str(path), **changes)


def stream(path, *, max_bytes=1000, shard=0, **changes):
    given = source(path, **changes)
    return files_of(given, None, selection_of(given, shard), max_bytes=max_bytes)


def read(path, **options):
    return list(stream(path, **options))


def reasons(path, **changes):
    return {f.path: f.reason for f in read(path, **changes)}


def is_root():
    return os.geteuid() == 0


@pytest.fixture
def tree(tmp_path):
    folder = tmp_path / "tree"
    for name in ("b.py", "a/z.py", "a/b/c.txt", "A.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def test_files_come_in_the_order_that_no_number_of_shards_changes(tree):
    order = Selection(("**",), ()).order
    names = sorted(["A.py", "a/b/c.txt", "a/z.py", "b.py"], key=order)
    assert [f.path for f in read(tree)] == names
    assert [f.path for shard in range(5) for f in read(tree, shards=5, shard=shard)] == names
    by_file = [f.path for shard in range(5) for f in read(tree, shards=5, shard=shard, shard_by="file")]
    assert sorted(by_file) == sorted(names)


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


def changed_after_the_walk(tree, change):
    """Return what is read of b.py, which never comes first, if it is changed when the first file is read."""
    files = stream(tree)
    assert next(files).path != "b.py"
    change(tree / "b.py")
    return next(f for f in files if f.path == "b.py")


def test_a_file_that_becomes_a_link_after_the_walk_is_not_followed(tree, tmp_path):
    (tmp_path / "secret").write_text("secret")
    file = changed_after_the_walk(tree, lambda path: path.unlink() or path.symlink_to(tmp_path / "secret"))
    assert (file.data, file.reason) == (None, "unreadable (Too many levels of symbolic links)")


def test_a_folder_that_becomes_a_link_after_the_walk_is_not_followed(tree, tmp_path):
    (tmp_path / "other").mkdir()
    for name in ("c.txt", "z.py", "A.py", "b.py"):
        (tmp_path / "other" / name).write_text("secret")
    scan = trees._scan

    def swapped(root):
        yield from list(scan(root))
        (tree / "a" / "b").rename(tree / "gone")
        (tree / "a" / "b").symlink_to(tmp_path / "other")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trees, "_scan", swapped)
        [file] = [f for f in read(tree) if f.path == "a/b/c.txt"]
    assert (file.data, file.reason) == (None, "unreadable (Not a directory)")


def test_a_file_that_vanishes_after_the_walk_is_reported_unreadable(tree):
    file = changed_after_the_walk(tree, lambda path: path.unlink())
    assert (file.n_bytes, file.reason) == (0, "unreadable (No such file or directory)")


@pytest.mark.parametrize("change", ["longer", "shorter", "other"])
def test_a_file_that_changes_while_it_is_read_is_passed_over(tree, monkeypatch, change):
    fdopen = os.fdopen

    class Changed:
        def __init__(self, file):
            self._file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self._file.close()

        def read(self, n):
            path = tree / "b.py"
            if change == "longer":
                data = self._file.read(n)
                path.write_text("longer than before")
            elif change == "shorter":
                path.write_text("")
                data = self._file.read(n)
            else:
                data = self._file.read(n)
                path.write_text("wxyz")
                os.utime(path, ns=(0, 0))
            return data

    monkeypatch.setattr(os, "fdopen", lambda *a, **k: Changed(fdopen(*a, **k)))
    [file] = read(tree / "b.py")
    assert (file.data, file.reason) == (None, "changed while it was read")


def test_a_file_that_fails_while_it_is_read_is_reported_unreadable(tree, monkeypatch):
    fdopen = os.fdopen

    def failing(*a, **k):
        fdopen(*a, **k).close()
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdopen", failing)
    assert set(reasons(tree).values()) == {"unreadable (Input/output error)"}


@pytest.mark.skipif(is_root(), reason="root may read everything")
def test_a_file_without_permission_is_reported_unreadable(tree):
    (tree / "b.py").chmod(0)
    assert reasons(tree)["b.py"] == "unreadable (Permission denied)"


def test_a_folder_without_permission_is_reported_unreadable(tree, monkeypatch):
    scandir = os.scandir

    def denied(path):
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    assert reasons(tree) == {"A.py": "", "a/b": "unreadable folder (Permission denied)", "a/z.py": "", "b.py": ""}


def test_a_device_is_passed_over(tree):
    try:
        os.mknod(tree / "zero.py", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("devices cannot be made here")
    assert reasons(tree)["zero.py"] == "not a regular file"


def test_a_sparse_file_of_a_tebibyte_is_too_large_and_takes_no_time(tree):
    with (tree / "hole.py").open("wb") as file:
        try:
            file.truncate(2**40)
        except OSError:
            pytest.skip("this disk has no such files")
    [file] = [f for f in read(tree, max_bytes=2**30) if f.path == "hole.py"]
    assert (file.n_bytes, file.reason) == (2**40, "too large")


def test_names_with_line_ends_and_escapes_are_names(tree):
    names = {"new\nline.py", "\x1b[31m.py", " ", "-rf", "a\\b.py", "x'; rm.py"}
    for name in names:
        (tree / name).write_text(name)
    assert names <= {f.path for f in read(tree) if f.data == f.path.encode()}


def test_a_folder_that_is_called_like_a_file_is_a_folder(tree):
    (tree / "x.c").mkdir()
    (tree / "x.c" / "y.c").write_text("y")
    assert reasons(tree, include=("*.c",))["x.c/y.c"] == ""
    assert "x.c" not in reasons(tree)


def deep(folder, levels, name="d"):
    """Make a tree deeper than any path can say."""
    fd = os.open(folder, os.O_RDONLY)
    for level in range(levels):
        if level in (500, levels - 1):
            os.close(os.open("f.py", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        os.mkdir(name, dir_fd=fd)
        inner = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)


@pytest.fixture
def in_tree(tmp_path):
    """Give a folder for trees of any depth; they are taken down from the top, where paths are short."""
    yield tmp_path
    top, n_moved = os.open(tmp_path, os.O_RDONLY), 0
    while names := [entry.name for entry in os.scandir(tmp_path) if entry.is_dir()]:
        inner = os.open(names[0], os.O_RDONLY, dir_fd=top)
        for name in os.listdir(inner):  # noqa: PTH208  (of a descriptor)
            if name == "f.py":
                os.unlink(name, dir_fd=inner)
            else:
                n_moved += 1
                os.rename(name, f"moved{n_moved}", src_dir_fd=inner, dst_dir_fd=top)
        os.close(inner)
        os.rmdir(names[0], dir_fd=top)
    os.close(top)


def test_a_tree_of_nearly_two_thousand_levels_is_read_and_a_pattern_that_needs_recursion_refused(in_tree):
    levels = 1950 - len(str(in_tree)) // 2  # a path of just under 4,096 bytes
    deep(in_tree, levels, "d")
    assert reasons(in_tree) == {"d/" * 500 + "f.py": "", "d/" * (levels - 1) + "f.py": ""}
    with pytest.raises(SourceError, match="nested too deep for a pattern"):
        read(in_tree / "**" / "*.py")


def test_a_tree_deeper_than_any_path_can_say_is_read_as_far_as_paths_go(in_tree):
    deep(in_tree, 2000, "dd")
    [(top, first), (cut, reason)] = sorted(reasons(in_tree).items())[::-1]
    assert (top, first) == ("dd/" * 500 + "f.py", "")
    assert reason == "unreadable folder (File name too long)"
    assert cut.count("/") > 1000


@pytest.mark.slow
def test_a_tree_of_a_hundred_thousand_files_is_read(tmp_path):
    for i in range(1000):
        folder = tmp_path / f"d{i % 10}" / f"e{i}"
        folder.mkdir(parents=True)
        for j in range(100):
            (folder / f"f{j}.c").write_bytes(b"int x;\n" * 20)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    n_bytes = sum(len(f.data) for f in stream(tmp_path))
    took = time.perf_counter() - began
    print(
        f"100,000 files: {took:.1f} s, {(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024:.0f} MiB"
    )
    began = time.perf_counter()
    assert len(set(fingerprint_shards(source(tmp_path, shards=10)))) == 10
    print(f"fingerprints of 10 shards: {time.perf_counter() - began:.1f} s")
    assert n_bytes == 100_000 * 140


def test_a_fifo_is_passed_over_without_waiting(tree):
    os.mkfifo(tree / "fifo.py")
    assert reasons(tree)["fifo.py"] == "not a regular file"


def test_a_file_that_becomes_a_fifo_after_the_walk_does_not_hang(tree):
    file = changed_after_the_walk(tree, lambda path: path.unlink() or os.mkfifo(path))
    assert file.reason == "not a regular file"


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


def test_a_pattern_that_matches_a_folder_and_what_lies_in_it_names_each_file_once(tree):
    names = [f.path for f in read(tree / "**")]
    assert sorted(names) == ["A.py", "a/b/c.txt", "a/z.py", "b.py"]


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


def test_a_path_with_a_nul_or_of_a_home_that_is_not_there_is_refused():
    for path in ("a\0b", "~nobody-of-that-name/x"):
        with pytest.raises(SourceError, match="source s: "):
            read(path)


def test_a_folder_behind_a_link_in_a_pattern_is_not_entered(tree, tmp_path):
    (tree / "link").symlink_to(tree / "a")
    assert reasons(tree / "l*") == {"link": "symbolic link"}


def test_the_paths_for_the_fingerprint_are_those_that_are_read(tree):
    (tree / "link.py").symlink_to(tree / "b.py")
    chosen = source(tree, include=("*.py",), shards=3)
    dealt = [[p.name for p in paths_of(chosen, selection_of(chosen, i))] for i in range(3)]
    read_ = [
        [f.path.rpartition("/")[2] for f in read(tree, include=("*.py",), shards=3, shard=i) if not f.reason]
        for i in range(3)
    ]
    assert dealt == [sorted(names) for names in read_]
    assert sorted(name for names in dealt for name in names) == ["A.py", "b.py", "z.py"]


def test_the_fingerprint_follows_what_is_read_and_nothing_else(tree):
    chosen = source(tree, include=("*.py",))
    before = fingerprint_shards(chosen)
    (tree / "a" / "b" / "c.txt").write_text("changed, but not included")
    unchanged = fingerprint_shards(chosen)
    (tree / "b.py").write_text("changed")
    assert before == unchanged
    assert before != fingerprint_shards(chosen)


def test_a_changed_new_or_lost_file_changes_the_fingerprint_of_its_shard_only(tree):
    for i in range(20):
        (tree / f"d{i}").mkdir()
        (tree / f"d{i}" / "x.py").write_text(str(i))
    chosen = source(tree, shards=4)
    before = fingerprint_shards(chosen)
    for change in (
        lambda: (tree / "d3" / "x.py").write_text("changed"),
        lambda: (tree / "d3" / "new.py").write_text("new"),
        (tree / "d3" / "x.py").unlink,
    ):
        change()
        after = fingerprint_shards(chosen)
        assert [a == b for a, b in zip(before, after, strict=True)].count(False) == 1
        assert before[selection_of(chosen, 0).shard_of("d3/x.py")] != after[selection_of(chosen, 0).shard_of("d3/x.py")]
        before = after


def test_a_missing_source_has_a_fingerprint_for_each_shard(tmp_path):
    assert fingerprint_shards(source(tmp_path / "none", shards=3)) == ("missing",) * 3


def test_a_tree_is_walked_once_for_the_fingerprints_of_all_its_shards(tree, monkeypatch):
    walks = []
    scan = trees._scan
    monkeypatch.setattr(trees, "_scan", lambda root: walks.append(root) or scan(root))
    fingerprints._remembered.cache_clear()
    chosen = source(tree, shards=9)
    assert [fingerprint_shard(chosen, i) for i in range(9)] == list(fingerprint_shards(chosen))
    assert len(walks) == 2


def test_what_a_digest_pins_is_only_asked_whether_it_is_there(tmp_path):
    (tmp_path / "x").write_text("x")
    pin = {"name": "s", "sha256": "0" * 64, "shards": 2}
    for name, expected in (("x", "pinned"), ("y", "missing"), ("", "missing"), ("~nobody-of-that-name/x", "missing")):
        path = name if name.startswith("~") else str(tmp_path / name)
        assert fingerprint_shards(ArchiveSource(kind="archive", path=path, **pin)) == (expected,) * 2
        assert fingerprint_shards(TableSource(kind="table", path=path, template="{a}", **pin)) == (expected,) * 2
    assert fingerprint_shards(ArchiveSource(kind="archive", url="https://x.org/y", **pin)) == ("pinned",) * 2
    assert fingerprint_shards(GitSource(kind="git", name="s", url="https://x.org/y", commit="0" * 40)) == ("pinned",)


def test_the_digest_of_a_source_follows_paths_and_bytes_and_no_order():
    files = [(f"p{i}", f"{i:064x}") for i in range(20)]
    shuffled = random.Random(1).sample(files, 20)
    assert source_digest(iter(shuffled)) == source_digest(files)
    assert len(source_digest([])) == 16
    for other in (files[1:], [("q", files[0][1]), *files[1:]], [(files[0][0], "f" * 64), *files[1:]]):
        assert source_digest(other) != source_digest(files)
