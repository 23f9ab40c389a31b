"""Digests of what lies outside of the workflow, so that edited files rerun a stage and touched ones do not."""

from pathlib import Path

from commbert.corpus.sources import paths_of
from commbert.errors import SourceError
from commbert.modelfolder import FILES
from commbert.provenance import digest, fingerprint_paths
from commbert.settings.corpus import CorpusSettings
from commbert.settings.model import BaseModelSource, PathModel


def fingerprint_sources(settings: CorpusSettings) -> str:
    """Return the digest; wheels are pinned by their settings and do not count here.

    A missing path counts as missing: the stage ``ingest`` will say so, with its name.
    """
    parts: list[str] = []
    for source in settings.sources:
        if source.kind == "path":
            try:
                parts.append(f"{source.name} {fingerprint_paths(paths_of(source))}")
            except SourceError:
                parts.append(f"{source.name} missing")
    return digest(*parts)


def fingerprint_base(source: BaseModelSource) -> str:
    """Return the digest of a base model folder; the other kinds are pinned by their settings."""
    if not isinstance(source, PathModel):
        return "pinned"
    try:
        folder = Path(source.path).expanduser()
    except RuntimeError:
        return "missing"
    return fingerprint_paths([folder / name for name in FILES if (folder / name).is_file()])
