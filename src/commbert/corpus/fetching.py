"""What comes from elsewhere, as data: downloaded and checked, never installed, never executed."""

import lzma
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from commbert.artifacts import atomic_file, atomic_folder
from commbert.corpus.pinned import pinned_file
from commbert.corpus.repositories import git_command, git_environment, git_is_missing, is_commit
from commbert.errors import SourceError
from commbert.settings.addresses import check_address
from commbert.settings.corpus import ArchiveSource, GitRules, GitSource

_MAX_MEMBER_BYTES = 2 * 2**30
_MAX_MEMBERS = 1_000_000
_NOT_ALONE = ("unadvertised object", "not our ref", "couldn't find remote ref")
"""What git says when a server does not give out a bare commit."""


def fetch_wheel(package: str, version: str, sha256: str, out: Path, *, timeout_s: float) -> None:
    """Download one wheel with pip and put it at ``out`` if its digest is the expected one.

    Raises:
        SourceError: If there is no such wheel, no network, or another digest.
    """
    with tempfile.TemporaryDirectory(prefix="commbert-fetch-") as name:
        folder = Path(name)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--disable-pip-version-check", "--dest", str(folder), f"{package}=={version}"]
        try:
            run = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
        except subprocess.TimeoutExpired as error:
            raise SourceError(
                f"{package} {version}: no answer within {timeout_s:g} s. Try again, or raise runtime.fetch_timeout_s."
            ) from error
        wheels = sorted(folder.glob("*.whl"))
        if run.returncode or len(wheels) != 1:
            reason = next((ln for ln in run.stderr.splitlines() if ln.startswith("ERROR")), "pip gave no reason")
            raise SourceError(f"{package} {version}: expected one wheel, pip says: {reason[:200]}")
        check_sha256(wheels[0], sha256, f"{package} {version}")
        with atomic_file(out) as tmp:
            shutil.copyfile(wheels[0], tmp)


def check_sha256(path: Path, expected: str, what: str) -> None:
    """Compare a file's digest with the pinned one.

    Raises:
        SourceError: If they differ.
    """
    with pinned_file(path, expected, what):
        pass


def fetch_archive(source: ArchiveSource, downloaded: Path, out: Path) -> None:
    """Put a downloaded archive at ``out`` if its digest is the expected one; a link to the same bytes where it can be.

    Raises:
        SourceError: If it is missing or another file.
    """
    check_sha256(downloaded, source.sha256, f"source {source.name}")
    with atomic_file(out) as tmp:
        try:
            os.link(downloaded.resolve(), tmp)
        except OSError:  # another file system, or one without links
            shutil.copyfile(downloaded, tmp)


def fetch_git(source: GitSource, rules: GitRules, out: Path, *, timeout_s: float) -> None:
    """Fetch one commit into a bare repository at ``out``, with its history only if the server gives no single commit.

    Raises:
        SourceError: If the address is not allowed, or does not give the commit.
    """
    where = f"source {source.name}"
    try:
        protocol = check_address(source.url, rules.protocols, rules.hosts)
    except ValueError as error:
        raise SourceError(f"{where}: {error}") from None
    pinned = {"url": source.url, "commit": source.commit}
    with atomic_folder(out, about=pinned) as tmp:
        environment = git_environment(protocol)
        _git(["git", "init", "--quiet", "--bare", "--template=", str(tmp)], environment, timeout_s, where)
        fetch = git_command(tmp, "fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--no-auto-maintenance")
        try:
            _git([*fetch, "--depth=1", "--", source.url, source.commit], environment, timeout_s, where)
        except SourceError as error:
            # Servers before protocol 2 may refuse a commit that no branch ends at.
            if not any(text in str(error) for text in _NOT_ALONE):
                raise
            everything = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]
            _git([*fetch, "--", source.url, *everything], environment, timeout_s, where)
        if not is_commit(tmp, source.commit, where):
            raise SourceError(
                f"{where}: expected commit {source.commit} at {source.url}, found none of that name. "
                "Set commit to the 40 digits that git rev-parse HEAD shows."
            )


def _git(command: list[str], environment: dict[str, str], timeout_s: float, where: str) -> None:
    try:
        run = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SourceError(
            f"{where}: git had no answer within {timeout_s:g} s. Try again, or raise runtime.fetch_timeout_s."
        ) from error
    except OSError as error:
        raise git_is_missing(error, where) from error
    if run.returncode:
        lines = [line.strip() for line in run.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith(("fatal:", "error:", "remote:"))] or lines
        reason = "; ".join(errors[:3]) or "git gave no reason"
        raise SourceError(f"{where}: the repository cannot be fetched, git says: {reason[:300]!a}")


def wheel_members(wheel: Path) -> Iterator[tuple[str, int, zipfile.ZipInfo, zipfile.ZipFile]]:
    """Yield name, size in bytes, and handle of every file in a wheel, by name.

    Raises:
        SourceError: If it is no wheel, or holds absolute or climbing names, or too much.
    """
    try:
        archive = zipfile.ZipFile(wheel)
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise SourceError(f"{wheel}: expected a wheel, found: {error}. Delete it and run again.") from error
    with archive:
        members = sorted((m for m in archive.infolist() if not m.is_dir()), key=lambda m: m.filename)
        if len(members) > _MAX_MEMBERS:
            raise SourceError(f"{wheel}: expected {_MAX_MEMBERS:,} files at most, found {len(members):,}.")
        for member in members:
            parts = PurePosixPath(member.filename).parts
            if member.filename.startswith("/") or "\\" in member.filename or ".." in parts:
                raise SourceError(f"{wheel}: {member.filename!a} points outside of the archive; refused.")
            yield member.filename, member.file_size, member, archive


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, max_bytes: int = _MAX_MEMBER_BYTES) -> bytes:
    """Read one file of a wheel, at most ``max_bytes`` whatever its header says.

    Raises:
        SourceError: If it is damaged or larger than it says.
    """
    try:
        with archive.open(member) as file:
            data = file.read(max_bytes + 1)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, RuntimeError, zlib.error, lzma.LZMAError) as error:
        raise SourceError(f"{archive.filename}: {member.filename!a} cannot be read: {error}") from error
    if len(data) > max_bytes or len(data) != member.file_size:
        raise SourceError(f"{archive.filename}: {member.filename!a} is not of the size its header says; refused.")
    return data
