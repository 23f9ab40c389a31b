"""fetch: what one source pins to one file, or to one bare repository."""

from pathlib import Path
from typing import Any

from commbert.corpus.fetching import fetch_archive, fetch_git, fetch_wheel
from commbert.errors import SettingsError
from commbert.settings.corpus import ArchiveSource, GitRules, GitSource, Source, WheelSource


def run(
    source: Source, *, out: Path, timeout_s: float, downloaded: Path | None = None, git: GitRules | None = None
) -> dict[str, Any]:
    """Fetch a source.

    Args:
        source: A wheel, a git repository, or an archive with an address.
        out: Becomes the file, or the folder of the repository.
        timeout_s: When a download is given up.
        downloaded: The archive as it was downloaded; only its digest is checked here.
        git: Where repositories may come from.

    Raises:
        SourceError: If it cannot be had, or is not the pinned one.
        SettingsError: If there is nothing to fetch.
    """
    if isinstance(source, WheelSource):
        fetch_wheel(source.package, source.version, source.sha256, out, timeout_s=timeout_s)
    elif isinstance(source, GitSource):
        fetch_git(source, git or GitRules(), out, timeout_s=timeout_s)
    elif isinstance(source, ArchiveSource) and source.url is not None:
        if downloaded is None:
            raise SettingsError(f"source {source.name}: expected the downloaded archive: give it as --from FILE.")
        fetch_archive(source, downloaded, out)
    else:
        raise SettingsError(f"source {source.name}: lies on this machine; there is nothing to fetch.")
    files = [path for path in (out.rglob("*") if out.is_dir() else [out]) if path.is_file()]
    return {"source": source.name, "bytes": sum(path.stat().st_size for path in files)}
