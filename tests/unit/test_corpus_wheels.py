import hashlib
import os
import struct
import subprocess
import zipfile

import pytest
from typer.testing import CliRunner

from commbert.cli import app as cli_app
from commbert.corpus.fetching import check_sha256, fetch_wheel, read_member, wheel_members
from commbert.corpus.sources import files_of, selection_of
from commbert.errors import SettingsError, SourceError
from commbert.settings.corpus import ArchiveSource, GitRules, GitSource, WheelSource
from commbert.stages import fetch as stage


def write_wheel(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def source(wheel, **changes):
    return WheelSource(kind="wheel", name="s", package="p", version="1.0", sha256=sha256(wheel), **changes)


def read_all(wheel):
    return {name: read_member(archive, member) for name, _, member, archive in wheel_members(wheel)}


def test_members_come_sorted_with_their_bytes_and_without_folders(tmp_path):
    wheel = write_wheel(tmp_path / "w.whl", {"p/b.py": b"bb", "p/": b"", "p/a.py": b"a"})
    assert list(read_all(wheel).items()) == [("p/a.py", b"a"), ("p/b.py", b"bb")]


@pytest.mark.parametrize("name", ["../x.py", "p/../../x.py", "/etc/x.py", "p\\x.py", "C:\\x.py", "p/.."])
def test_a_name_that_points_outside_is_refused(tmp_path, name):
    wheel = write_wheel(tmp_path / "w.whl", {"p/a.py": b"a", name: b"x"})
    with pytest.raises(SourceError, match=r"w\.whl: .* points outside of the archive; refused"):
        read_all(wheel)


@pytest.mark.parametrize("name", ["..x.py", "p/...py", "a..b/x.py"])
def test_two_dots_inside_a_name_are_fine(tmp_path, name):
    assert read_all(write_wheel(tmp_path / "w.whl", {name: b"x"})) == {name: b"x"}


def test_another_digest_is_refused_with_both_digests(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    with pytest.raises(SourceError) as caught:
        check_sha256(tmp_path / "f", "0" * 64, "p 1.0")
    assert f"p 1.0: expected sha256 {'0' * 64}, found {sha256(tmp_path / 'f')}" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 cut off"])
def test_a_file_that_is_no_zip_is_refused(tmp_path, content):
    (tmp_path / "w.whl").write_bytes(content)
    with pytest.raises(SourceError, match=r"w\.whl: expected a wheel, found"):
        list(wheel_members(tmp_path / "w.whl"))


def test_a_missing_wheel_is_refused(tmp_path):
    with pytest.raises(SourceError, match=r"w\.whl: expected a wheel"):
        list(wheel_members(tmp_path / "w.whl"))


def test_a_wheel_cut_at_its_end_is_refused(tmp_path):
    wheel = write_wheel(tmp_path / "w.whl", {"a.py": b"x" * 1000})
    wheel.write_bytes(wheel.read_bytes()[:-30])
    with pytest.raises(SourceError, match="expected a wheel"):
        list(wheel_members(wheel))


def patched(path, signature, offset, value):
    """Overwrite a number in the first header of a kind: 'PK\\1\\2' central directory, 'PK\\3\\4' local."""
    data = bytearray(path.read_bytes())
    at = data.index(signature) + offset
    data[at : at + 4] = struct.pack("<I", value)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("size", [5, 500])
def test_a_member_of_another_size_than_its_header_says_is_refused(tmp_path, compression, size):
    wheel = write_wheel(tmp_path / "w.whl", {"a.py": b"0123456789"}, compression)
    with pytest.raises(SourceError, match=r"a\.py"):
        read_all(patched(wheel, b"PK\x01\x02", 24, size))


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_that_is_cut_short_is_refused(tmp_path, compression):
    wheel = write_wheel(tmp_path / "w.whl", {"a.py": bytes(range(256)) * 8}, compression)
    with pytest.raises(SourceError, match=r"a\.py"):
        read_all(patched(wheel, b"PK\x01\x02", 20, 50))


@pytest.mark.parametrize("size", [2**20, 2**31 - 1])
def test_a_member_that_goes_on_beyond_the_end_of_the_file_is_refused(tmp_path, size):
    wheel = write_wheel(tmp_path / "w.whl", {"a.py": bytes(range(256)) * 8}, zipfile.ZIP_STORED)
    patched(wheel, b"PK\x01\x02", 24, size)
    with pytest.raises(SourceError, match=r"a\.py"):
        read_all(patched(wheel, b"PK\x01\x02", 20, size))


def test_a_flipped_byte_anywhere_in_a_wheel_gives_a_source_error_or_the_same_text(tmp_path):
    wheel = write_wheel(tmp_path / "w.whl", {"a.py": b"def harq(): return 1\n" * 5})
    whole, expected = wheel.read_bytes(), b"def harq(): return 1\n" * 5
    refused = 0
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        wheel.write_bytes(damaged)
        try:
            assert set(read_all(wheel).values()) <= {expected}, at
        except SourceError:
            refused += 1
    assert refused > 50


def test_a_member_larger_than_the_limit_is_refused_without_being_unpacked(tmp_path):
    wheel = write_wheel(tmp_path / "w.whl", {"a.py": b"\0" * 10_000_000})
    [(_, size, member, _)] = wheel_members(wheel)
    assert size == 10_000_000
    with zipfile.ZipFile(wheel) as archive, pytest.raises(SourceError, match="not of the size"):
        read_member(archive, member, max_bytes=1000)


def test_a_wheel_source_gives_its_files_with_reasons(tmp_path):
    wheel = write_wheel(tmp_path / "w.whl", {"p/a.py": b"a", "p/b.md": b"b", "p/c.py": b"c" * 50, "p/t/d.py": b"d"})
    chosen = source(wheel, include=("*.py",), exclude=("t/",))
    files = list(files_of(chosen, wheel, selection_of(chosen, 0), max_bytes=10))
    assert [(f.path, f.data, f.reason) for f in files] == [
        ("p/a.py", b"a", ""),
        ("p/b.md", None, "not included"),
        ("p/c.py", None, "too large"),
        ("p/t/d.py", None, "excluded"),
    ]


def test_a_wheel_source_of_another_digest_is_refused_by_its_name(tmp_path):
    wheel = write_wheel(tmp_path / "w.whl", {"a.py": b"a"})
    pinned = source(wheel)
    write_wheel(wheel, {"a.py": b"b"})
    with pytest.raises(SourceError, match="source s: expected sha256"):
        list(files_of(pinned, wheel, selection_of(pinned, 0), max_bytes=10))


def test_a_wheel_that_was_not_fetched_is_asked_for(tmp_path):
    pinned = source(write_wheel(tmp_path / "w.whl", {"a.py": b"a"}))
    with pytest.raises(SourceError, match="source s: the wheel was not fetched"):
        list(files_of(pinned, None, selection_of(pinned, 0), max_bytes=10))


class Pip:
    """Stands for ``pip download``: copies a prepared wheel into the folder that is asked for."""

    def __init__(self, wheel=None, *, stderr="", returncode=0, timeout=False):
        self.wheel, self.stderr, self.returncode, self.timeout = wheel, stderr, returncode, timeout
        self.command = []

    def __call__(self, command, *, timeout, **_):
        self.command = command
        if self.timeout:
            raise subprocess.TimeoutExpired(command, timeout)
        if self.wheel is not None:
            folder = command[command.index("--dest") + 1]
            with open(f"{folder}/p-1.0-py3-none-any.whl", "wb") as file:  # noqa: PTH123
                file.write(self.wheel.read_bytes())
        return subprocess.CompletedProcess(command, self.returncode, "", self.stderr)


def fetched(monkeypatch, tmp_path, pip, digest="0" * 64):
    monkeypatch.setattr(subprocess, "run", pip)
    fetch_wheel("p", "1.0", digest, tmp_path / "out" / "s.whl", timeout_s=3.0)


def test_a_fetched_wheel_lies_where_it_is_asked_for(monkeypatch, tmp_path):
    wheel = write_wheel(tmp_path / "w.whl", {"a.py": b"a"})
    fetched(monkeypatch, tmp_path, Pip(wheel), sha256(wheel))
    assert (tmp_path / "out" / "s.whl").read_bytes() == wheel.read_bytes()


def test_the_package_is_fetched_as_one_wheel_and_nothing_is_built_or_installed(monkeypatch, tmp_path):
    wheel = write_wheel(tmp_path / "w.whl", {"a.py": b"a"})
    pip = Pip(wheel)
    fetched(monkeypatch, tmp_path, pip, sha256(wheel))
    assert pip.command[1:4] == ["-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "p==1.0"} <= set(pip.command)


def test_a_fetched_wheel_of_another_digest_is_not_kept(monkeypatch, tmp_path):
    wheel = write_wheel(tmp_path / "w.whl", {"a.py": b"a"})
    with pytest.raises(SourceError, match=r"p 1\.0: expected sha256 0{64}, found"):
        fetched(monkeypatch, tmp_path, Pip(wheel))
    assert not (tmp_path / "out").exists()


def test_what_pip_says_is_passed_on(monkeypatch, tmp_path):
    pip = Pip(stderr="WARNING: x\nERROR: No matching distribution found for p==1.0\n", returncode=1)
    with pytest.raises(SourceError, match=r"pip says: ERROR: No matching distribution found for p==1\.0"):
        fetched(monkeypatch, tmp_path, pip)


def test_a_fetch_without_an_answer_names_the_setting_of_its_time_limit(monkeypatch, tmp_path):
    with pytest.raises(SourceError, match=r"no answer within 3 s.*runtime\.fetch_timeout_s"):
        fetched(monkeypatch, tmp_path, Pip(timeout=True))


@pytest.mark.parametrize("name", ["../x.py", "/etc/x.py", "p\\x.py"])
def test_a_wheel_source_with_a_name_that_points_outside_is_refused(tmp_path, name):
    wheel = write_wheel(tmp_path / "w.whl", {"p/a.py": b"a", name: b"x"})
    pinned = source(wheel)
    with pytest.raises(SourceError, match=r"source s: 'w\.whl': .* points outside of the archive; refused"):
        list(files_of(pinned, wheel, selection_of(pinned, 0), max_bytes=10))


def test_the_shards_of_a_wheel_hold_each_file_once_in_one_order(tmp_path):
    wheel = write_wheel(tmp_path / "w.whl", {f"d{i}/{j}.py": b"a" for i in range(9) for j in range(3)})
    whole = source(wheel)
    parts = source(wheel, shards=4)
    paths = [f.path for f in files_of(whole, wheel, selection_of(whole, 0), max_bytes=10)]
    dealt = [f.path for i in range(4) for f in files_of(parts, wheel, selection_of(parts, i), max_bytes=10)]
    assert dealt == paths
    assert len(paths) == 27


def archive_of(file, **changes):
    about = {"kind": "archive", "name": "s", "url": "https://example.org/x.tar", "sha256": sha256(file)}
    return ArchiveSource(**(about | changes))


def test_a_downloaded_archive_is_put_in_place_without_a_second_copy(tmp_path):
    downloaded = write_wheel(tmp_path / "d", {"a": b"a"})
    stage.run(archive_of(downloaded), out=tmp_path / "out" / "s", timeout_s=1, downloaded=downloaded)
    assert (tmp_path / "out" / "s").samefile(downloaded)


def test_a_downloaded_archive_behind_a_link_or_on_another_disk_is_copied_whole(tmp_path, monkeypatch):
    downloaded = write_wheel(tmp_path / "d", {"a": b"a"})
    (tmp_path / "link").symlink_to(downloaded)
    stage.run(archive_of(downloaded), out=tmp_path / "one", timeout_s=1, downloaded=tmp_path / "link")
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(18, "Invalid cross-device link")))
    stage.run(archive_of(downloaded), out=tmp_path / "two", timeout_s=1, downloaded=downloaded)
    for name in ("one", "two"):
        assert not (tmp_path / name).is_symlink()
        assert (tmp_path / name).read_bytes() == downloaded.read_bytes()


def test_a_downloaded_archive_of_another_digest_or_none_is_refused_and_not_put_in_place(tmp_path):
    downloaded = write_wheel(tmp_path / "d", {"a": b"a"})
    for path, message in ((downloaded, "expected sha256 0{64}, found"), (tmp_path / "none", "expected a file at")):
        with pytest.raises(SourceError, match=f"source s: {message}"):
            stage.run(archive_of(downloaded, sha256="0" * 64), out=tmp_path / "out", timeout_s=1, downloaded=path)
    assert not (tmp_path / "out").exists()


def test_an_archive_without_its_download_and_a_source_of_this_machine_cannot_be_fetched(tmp_path):
    path = write_wheel(tmp_path / "d", {"a": b"a"})
    with pytest.raises(SettingsError, match="give it as --from FILE"):
        stage.run(archive_of(path), out=tmp_path / "out", timeout_s=1)
    with pytest.raises(SettingsError, match="nothing to fetch"):
        stage.run(archive_of(path, url=None, path="x"), out=tmp_path / "out", timeout_s=1)


def test_the_command_line_fetches_an_archive_and_a_repository(tmp_path, monkeypatch):
    downloaded = write_wheel(tmp_path / "d", {"a": b"a"})
    one = [
        "fetch",
        "--source",
        archive_of(downloaded).as_json(),
        "--from",
        str(downloaded),
        "--out",
        str(tmp_path / "s"),
    ]
    result = CliRunner().invoke(cli_app, one)
    assert (result.exit_code, (tmp_path / "s").exists()) == (0, True), result.output
    asked = []
    monkeypatch.setattr(stage, "fetch_git", lambda *given, **_: asked.append(given) or (tmp_path / "g").mkdir())
    git = GitSource(kind="git", name="g", url="file:///x", commit="0" * 40)
    rules = GitRules(protocols=("file",), hosts=())
    two = ["fetch", "--source", git.as_json(), "--git", rules.as_json(), "--out", str(tmp_path / "g")]
    assert CliRunner().invoke(cli_app, two).exit_code == 0
    assert asked == [(git, rules, tmp_path / "g")]
