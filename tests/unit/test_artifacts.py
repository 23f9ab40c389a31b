import errno
import os
import subprocess
import sys
import textwrap

import pytest

from commbert import artifacts
from commbert.artifacts import (
    MANIFEST,
    atomic_file,
    atomic_folder,
    read_json,
    read_manifest,
    remove_leftovers,
    sha256_file,
    verify_folder,
    write_json,
    write_text,
)
from commbert.errors import ArtifactError


def run_python(code, *args):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def names_in(folder):
    return sorted(p.name for p in folder.iterdir())


def test_sha256_of_a_file_is_the_published_test_vector(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_file(tmp_path / "f") == expected


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt()])
def test_an_exception_while_writing_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "f"
    write_text(path, "old")
    with pytest.raises(type(error)), atomic_file(path) as tmp:  # noqa: PT012
        tmp.write_text("half")
        raise error
    assert (path.read_text(), names_in(tmp_path)) == ("old", ["f"])


def test_an_exception_while_filling_leaves_the_old_folder_and_nothing_else(tmp_path):
    path = tmp_path / "d"
    with atomic_folder(path) as tmp:
        (tmp / "a").write_text("old")
    with pytest.raises(KeyError), atomic_folder(path) as tmp:  # noqa: PT012
        (tmp / "a").write_text("half")
        raise KeyError
    assert ((path / "a").read_text(), names_in(tmp_path)) == ("old", ["d"])
    verify_folder(path)


def test_a_new_folder_replaces_the_whole_old_one(tmp_path):
    for name in ("a", "b"):
        with atomic_folder(tmp_path / "d", about={"n": name}) as tmp:
            (tmp / name).write_text(name)
    assert names_in(tmp_path / "d") == ["b", MANIFEST]
    assert read_manifest(tmp_path / "d")["about"] == {"n": "b"}


def test_a_kill_while_writing_leaves_the_old_file(tmp_path):
    write_text(tmp_path / "f", "old")
    code = """
        import os, signal, sys
        from pathlib import Path
        from commbert.artifacts import atomic_file
        with atomic_file(Path(sys.argv[1])) as tmp:
            tmp.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    assert run_python(code, tmp_path / "f").returncode == -9
    assert (tmp_path / "f").read_text() == "old"


def test_a_kill_while_filling_leaves_the_old_folder_and_leftovers_can_be_removed(tmp_path):
    with atomic_folder(tmp_path / "d") as tmp:
        (tmp / "a").write_text("old")
    code = """
        import os, signal, sys
        from pathlib import Path
        from commbert.artifacts import atomic_folder
        with atomic_folder(Path(sys.argv[1])) as tmp:
            (tmp / "a").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    assert run_python(code, tmp_path / "d").returncode == -9
    assert len(names_in(tmp_path)) == 2
    remove_leftovers(tmp_path)
    assert names_in(tmp_path) == ["d"]
    assert (tmp_path / "d" / "a").read_text() == "old"


def test_a_kill_between_the_two_renames_loses_no_folder(tmp_path):
    with atomic_folder(tmp_path / "d") as tmp:
        (tmp / "a").write_text("old")
    code = """
        import os, signal, sys
        from pathlib import Path
        from commbert.artifacts import atomic_folder
        rename, target = Path.rename, Path(sys.argv[1])
        def rename_then_die(self, to):
            rename(self, to)
            if not target.exists():
                os.kill(os.getpid(), signal.SIGKILL)
        Path.rename = rename_then_die
        with atomic_folder(target) as tmp:
            (tmp / "a").write_text("new")
    """
    run_python(code, tmp_path / "d")
    remove_leftovers(tmp_path)
    assert (tmp_path / "d" / "a").read_text() in ("old", "new")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_and_leaves_the_old_file(tmp_path, number):
    path = tmp_path / "f"
    write_text(path, "old")
    message = r"f: the disk is full \(\d+\.\d\d GiB free\)"
    with pytest.raises(ArtifactError, match=message), atomic_file(path) as tmp:  # noqa: PT012
        tmp.write_text("half")
        raise OSError(number, os.strerror(number))
    assert (path.read_text(), names_in(tmp_path)) == ("old", ["f"])


def test_a_full_disk_is_named_and_leaves_the_old_folder(tmp_path):
    path = tmp_path / "d"
    with atomic_folder(path) as tmp:
        (tmp / "a").write_text("old")
    with pytest.raises(ArtifactError, match="the disk is full"), atomic_folder(path) as tmp:
        raise OSError(errno.ENOSPC, "No space left on device")
    assert ((path / "a").read_text(), names_in(tmp_path)) == ("old", ["d"])


def test_another_os_error_is_not_called_a_full_disk(tmp_path):
    with pytest.raises(PermissionError), atomic_file(tmp_path / "f"):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_a_real_file_size_limit_gives_an_artifact_error_and_the_old_content(tmp_path):
    write_text(tmp_path / "f", "old")
    code = """
        import resource, signal, sys
        from pathlib import Path
        from commbert.artifacts import write_text
        from commbert.errors import ArtifactError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            write_text(Path(sys.argv[1]), "x" * 100_000)
        except ArtifactError as error:
            print(error)
    """
    done = run_python(code, tmp_path / "f")
    assert "the disk is full" in done.stdout, done.stderr
    assert ((tmp_path / "f").read_text(), names_in(tmp_path)) == ("old", ["f"])


def test_a_real_file_size_limit_while_writing_a_table_gives_an_artifact_error(tmp_path):
    code = """
        import resource, signal, sys
        import numpy as np
        from pathlib import Path
        from commbert import tables
        from commbert.errors import ArtifactError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        ids = np.random.default_rng(0).integers(0, 2**32, 50_000).astype(np.uint32)
        try:
            tables.write(Path(sys.argv[1]), tables.KNOWN_PAIRS, {"word_id_a": ids, "word_id_b": ids}, provenance={})
        except ArtifactError as error:
            print(error)
    """
    done = run_python(code, tmp_path / "t.parquet")
    assert "the disk is full" in done.stdout, done.stderr
    assert names_in(tmp_path) == []


def folder_of_two(tmp_path):
    with atomic_folder(tmp_path / "d", about={"seed": 3}) as tmp:
        (tmp / "a").write_text("aa")
        (tmp / "sub").mkdir()
        (tmp / "sub" / "b").write_text("bb")
    return tmp_path / "d"


def test_an_undamaged_folder_verifies_and_lists_its_files(tmp_path):
    manifest = verify_folder(folder_of_two(tmp_path))
    assert (manifest["about"], sorted(manifest["files"])) == ({"seed": 3}, ["a", "sub/b"])


def test_verify_names_the_damaged_file(tmp_path):
    folder = folder_of_two(tmp_path)
    (folder / "sub" / "b").write_text("bB")
    with pytest.raises(ArtifactError, match=r"sub/b: expected sha256 \w{16}, found \w{16}"):
        verify_folder(folder)


def test_verify_names_the_missing_file(tmp_path):
    folder = folder_of_two(tmp_path)
    (folder / "a").unlink()
    with pytest.raises(ArtifactError, match=r"d/a: named in manifest\.json, but missing"):
        verify_folder(folder)


@pytest.mark.parametrize("text", [None, "", "{", "\xff"])
def test_a_folder_without_a_readable_manifest_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / MANIFEST).write_text(text, encoding="latin-1")
    with pytest.raises(ArtifactError, match="expected a complete folder"):
        verify_folder(tmp_path)


def test_json_is_readable_sorted_and_ends_in_a_newline(tmp_path):
    write_json(tmp_path / "j", {"b": "é", "a": [1]})
    assert (tmp_path / "j").read_text(encoding="utf-8") == '{\n "a": [\n  1\n ],\n "b": "é"\n}\n'


def test_a_nan_is_an_error_and_leaves_the_old_json(tmp_path):
    write_json(tmp_path / "j", 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "j", float("nan"))
    assert read_json(tmp_path / "j") == 1


def test_a_missing_json_file_is_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"j\.json: expected a JSON file"):
        read_json(tmp_path / "j.json")


def test_leftovers_are_only_what_a_writer_of_ours_leaves(tmp_path):
    theirs = [".bashrc", ".bashrc.old-2024", ".cfg.tmp-keep"]
    for name in (*theirs, ".final.tmp-12"):
        (tmp_path / name).write_text("x", encoding="utf-8")
    remove_leftovers(tmp_path, {"final", "best"})
    assert sorted(p.name for p in tmp_path.iterdir()) == theirs


def test_what_a_killed_writer_had_set_aside_comes_back(tmp_path):
    (tmp_path / ".final.old-12").mkdir()
    (tmp_path / ".final.old-12" / "weights").write_text("x", encoding="utf-8")
    (tmp_path / ".final.tmp-12").mkdir()
    remove_leftovers(tmp_path, {"final"})
    assert (tmp_path / "final" / "weights").is_file()
    assert [p.name for p in tmp_path.iterdir()] == ["final"]


@pytest.mark.parametrize("text", ["{}", "[]", '{"files": [], "about": {}}', "{"])
def test_a_manifest_that_is_none_is_a_message(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"no readable manifest\.json"):
        verify_folder(tmp_path)


def test_processes_of_two_machines_with_one_number_write_beside_each_other(tmp_path, monkeypatch):
    with artifacts.atomic_folder(tmp_path / "x") as mine:
        (mine / "file").touch()
        monkeypatch.setattr(artifacts.socket, "gethostname", lambda: "another")
        with artifacts.atomic_folder(tmp_path / "x") as theirs:
            assert theirs != mine
            assert (mine / "file").exists()
    artifacts.remove_leftovers(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_folder_that_is_a_link_is_replaced_and_what_it_points_to_stays(tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "file").touch()
    (tmp_path / "x").symlink_to(tmp_path / "cache")
    with artifacts.atomic_folder(tmp_path / "x") as folder:
        (folder / "other").touch()
    assert {p.name for p in tmp_path.iterdir()} == {"x", "cache"}
    assert not (tmp_path / "x").is_symlink()
    assert (tmp_path / "cache" / "file").exists()
