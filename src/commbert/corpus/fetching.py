"""Packages from the package index, as data: downloaded and checked, never installed, never executed."""

import lzma
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from commbert.artifacts import atomic_file, sha256_file
from commbert.errors import SourceError

_MAX_MEMBER_BYTES = 2 * 2**30
_MAX_MEMBERS = 1_000_000


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
    found = sha256_file(path)
    if found != expected:
        raise SourceError(
            f"{what}: expected sha256 {expected}, found {found}. "
            "The package is not the pinned one; check the version, and change sha256 only if you trust the new file."
        )


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
