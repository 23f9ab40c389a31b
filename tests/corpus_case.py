"""Small archives, tables and trees for the tests of sources."""

import hashlib
import io
import subprocess
import tarfile

from commbert.corpus.sources import files_of, selection_of
from commbert.settings.corpus import ArchiveSource, GitSource, PathSource, TableSource


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def archive(path, **changes):
    return ArchiveSource(kind="archive", name="s", path=str(path), sha256=sha256(path), **changes)


def table(path, template="{text}", **changes):
    return TableSource(kind="table", name="s", path=str(path), sha256=sha256(path), template=template, **changes)


def tree(path, **changes):
    return PathSource(kind="path", name="s", path=str(path), **changes)


def repository(folder, commit, **changes):
    return GitSource(kind="git", name="s", url=f"file://{folder}", commit=commit, **changes)


def read(source, fetched=None, *, max_bytes=1000, shard=0):
    return list(files_of(source, fetched, selection_of(source, shard), max_bytes=max_bytes))


def found(source, fetched=None, **options):
    """Return each file's bytes, or its reason as text, by path."""
    return {f.path: f.data if f.data is not None else f.reason for f in read(source, fetched, **options)}


def header(name, size=0, **changes):
    info = tarfile.TarInfo(name)
    info.size = size
    for key, value in changes.items():
        setattr(info, key, value)
    return info


def tar_bytes(members, **options):
    """Return a tar archive of (name or header, data)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", **options) as tar:
        for member, data in members:
            info = member if isinstance(member, tarfile.TarInfo) else header(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def git(folder, *arguments, **environment):
    about = [
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@t",
        "-c",
        "protocol.file.allow=always",
        "-c",
        "core.autocrlf=false",
    ]
    run = subprocess.run(
        ["git", "-C", str(folder), *about, *arguments],
        capture_output=True,
        check=True,
        env={"PATH": "/usr/bin:/bin:/usr/local/bin", "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1", **environment},
    )
    return run.stdout.decode().strip()


def committed(folder):
    """Commit all that lies in a folder; return the commit."""
    if not (folder / ".git").exists():
        git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all", "--force")
    git(folder, "commit", "--quiet", "--message=m", "--allow-empty")
    return git(folder, "rev-parse", "HEAD")
