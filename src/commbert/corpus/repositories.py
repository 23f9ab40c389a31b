"""One commit of a git repository, read from its object store: no checkout, no filters, no hooks, no submodules.

``git archive`` and a checkout obey what .gitattributes in the repository says; ls-tree and cat-file do not.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from commbert.corpus.naming import STANDS_TWICE, inner_name
from commbert.corpus.selection import Selection, SourceFile
from commbert.errors import SourceError
from commbert.settings.corpus import GitSource

_FILE_MODES = (b"100644", b"100755", b"100664")
"""100664 stands in commits of before 2005."""
_REASONS = {b"120000": "symbolic link", b"160000": "submodule"}
_LFS = b"version https://git-lfs.github.com/spec/v"
_MAX_LFS_BYTES = 1024
"""Git LFS' specification: a pointer is smaller."""
_PASSED_ON = ("GIT_SSH", "GIT_SSH_COMMAND", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH")


class _Blob(NamedTuple):
    name: str
    reason: str
    object_id: bytes
    n_bytes: int


def git_environment(protocols: str) -> dict[str, str]:
    """Return the environment of a git command that asks nobody, and obeys no configuration but the repository's."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("GIT_") or k in _PASSED_ON}
    return {
        "GIT_SSH_COMMAND": "ssh -oBatchMode=yes",
        **kept,
        "GIT_ALLOW_PROTOCOL": protocols,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "",
        "SSH_ASKPASS": "",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "LC_ALL": "C",
    }


def git_command(folder: Path, *arguments: str) -> list[str]:
    """Return a git command on a bare repository; hooks and housekeeping are off."""
    options = ("core.hooksPath=/dev/null", "gc.auto=0", "maintenance.auto=false", "safe.directory=*")
    return ["git", f"--git-dir={folder}", *(part for option in options for part in ("-c", option)), *arguments]


def git_is_missing(error: OSError, where: str) -> SourceError:
    """Return the error of a machine on which git does not start."""
    return SourceError(f"{where}: git cannot be run ({error.strerror}). Install git.")


def is_commit(folder: Path, commit: str, where: str) -> bool:
    """Return whether the repository holds the commit.

    Raises:
        SourceError: If there is no git on this machine.
    """
    command = git_command(folder, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}")
    try:
        run = subprocess.run(
            command, env=git_environment("none"), stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
    except OSError as error:
        raise git_is_missing(error, where) from error
    return run.returncode == 0 and run.stdout.strip() == commit.encode()


def git_files(source: GitSource, folder: Path, selection: Selection, *, max_bytes: int) -> Iterator[SourceFile]:
    """Yield the files of one shard in the order of ``selection``, read or with a reason.

    Raises:
        SourceError: If the folder does not hold the commit, or is damaged.
    """
    where = f"source {source.name}"
    if not is_commit(folder, source.commit, where):
        raise SourceError(
            f"{where}: expected commit {source.commit} in {str(folder)!a}, found none. Run the stage fetch again."
        )
    blobs = [blob for blob in _listed(folder, source.commit, where) if selection.is_here(blob.name)]
    blobs.sort(key=lambda blob: selection.order(blob.name))
    with _running(git_command(folder, "cat-file", "--batch"), where) as (asked, answers):
        for blob in blobs:
            reason = blob.reason or selection.reason(blob.name)
            if not reason and blob.n_bytes > max_bytes:
                reason = "too large"
            data = None if reason else _content(blob, asked, answers, where)
            if data is not None and len(data) < _MAX_LFS_BYTES and data.startswith(_LFS):
                data, reason = None, "LFS pointer"
            yield SourceFile(source.name, blob.name, blob.n_bytes, data, reason)


def _listed(folder: Path, commit: str, where: str) -> Iterator[_Blob]:
    names: set[str] = set()
    with _running(git_command(folder, "ls-tree", "-r", "-z", "-l", "--full-tree", commit), where) as (_, listing):
        for line in _split_at_nul(listing):
            about, tab, raw = line.partition(b"\t")
            fields = about.split()
            if not tab or len(fields) != 4:
                raise SourceError(f"{where}: git ls-tree answers {line[:100]!a}. Run the stage fetch again.")
            mode, _, object_id, size = fields
            name, unsafe = inner_name(raw.decode("utf-8", "surrogateescape"), with_backslash=True)
            kind = "" if mode in _FILE_MODES else _REASONS.get(mode, "not a regular file")
            reason = unsafe or kind or (STANDS_TWICE if name in names else "")
            names.add(name)
            yield _Blob(name, reason, object_id, int(size) if size.isdigit() and not kind else 0)


def _split_at_nul(pipe: IO[bytes]) -> Iterator[bytes]:
    rest = b""
    while piece := pipe.read(2**16):
        *lines, rest = (rest + piece).split(b"\0")
        yield from lines
    if rest:
        yield rest


def _content(blob: _Blob, asked: IO[bytes], answers: IO[bytes], where: str) -> bytes:
    """Ask for one object and read its answer whole before the next is asked for: no pipe can fill up."""
    try:
        asked.write(blob.object_id + b"\n")
        asked.flush()
        head = answers.readline()
        if head.split() == [blob.object_id, b"blob", str(blob.n_bytes).encode()]:
            data = answers.read(blob.n_bytes)
            if len(data) == blob.n_bytes and answers.read(1) == b"\n":
                return data
    except OSError as error:
        head = str(error).encode()
    raise SourceError(
        f"{where}: {blob.name!a} cannot be read from the repository ({head.strip().decode('utf-8', 'replace')!a}). "
        "Run the stage fetch again."
    )


@contextmanager
def _running(command: list[str], where: str) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Run a git command with pipes to and from it; what it says of errors goes to a file, which cannot fill up."""
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                command, env=git_environment("none"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
            )
        except OSError as error:
            raise git_is_missing(error, where) from error
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdin, process.stdout
            process.stdin.close()
            rest = process.stdout.read(1)
        except BaseException:
            process.kill()
            raise
        finally:
            _close(process)
        if process.returncode or rest:
            errors.seek(0)
            said = errors.read(400).decode("utf-8", "replace").strip().split("\n")[0]
            raise SourceError(f"{where}: git says {said!a}: the repository is damaged. Run the stage fetch again.")


def _close(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        try:
            if pipe is not None:
                pipe.close()
        except OSError:  # the process has ended before it read all
            pass
    process.wait()
