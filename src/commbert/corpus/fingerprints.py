"""A digest of what the path sources hold, so that edited files rerun the ingestion and touched ones do not."""

from commbert.corpus.sources import paths_of
from commbert.errors import SourceError
from commbert.provenance import digest, fingerprint_paths
from commbert.settings.corpus import CorpusSettings


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
