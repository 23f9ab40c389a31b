"""Files to lines: decode, drop what is no source text, and account for every byte and line."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from commbert.corpus.sources import SourceFile
from commbert.provenance import digest
from commbert.settings.corpus import CorpusSettings
from commbert.text.comments import without_comments
from commbert.text.decoding import decode, split_lines
from commbert.text.languages import language_of, says_generated


@dataclass
class CorpusFile:
    """One file of the corpus, kept or dropped with its reason; ``lines`` are (number, text, code)."""

    source: str
    path: str
    language: str
    n_bytes: int
    sha256: str
    reason: str = ""
    encoding: str = ""
    n_lines: int = 0
    n_blank_lines: int = 0
    n_long_lines: int = 0
    lines: list[tuple[int, str, str]] = field(default_factory=list)

    @property
    def kept(self) -> bool:
        """Whether the file's lines are used."""
        return not self.reason


def ingest(files: Iterable[SourceFile], settings: CorpusSettings) -> list[CorpusFile]:
    """Read files into lines. Order is the caller's; the first of identical files is the one that is kept."""
    first_with: dict[str, str] = {}
    return [_ingest_one(file, settings, first_with) for file in files]


def _ingest_one(file: SourceFile, settings: CorpusSettings, first_with: dict[str, str]) -> CorpusFile:
    out = CorpusFile(file.source, file.path, language_of(file.path), file.n_bytes, "", file.reason)
    if file.data is None:
        return out
    out.sha256 = _sha256(file.data)
    decoded = decode(file.data)
    out.encoding = decoded.encoding
    if decoded.text is None:
        out.reason = "binary"
        return out
    raw = split_lines(decoded.text)
    out.n_lines = len(raw)
    if settings.drop_duplicates and out.sha256 in first_with:
        out.reason = f"duplicate of {first_with[out.sha256]}"
    elif settings.drop_generated and says_generated(raw):
        out.reason = "generated"
    elif not any(line.strip() for line in raw):
        out.reason = "empty"
    if out.kept:
        first_with.setdefault(out.sha256, f"{out.source}:{out.path}")
        _keep_lines(out, raw, settings.max_line_chars)
    return out


def _keep_lines(out: CorpusFile, raw: list[str], max_line_chars: int) -> None:
    code = without_comments("\n".join(raw), out.language).split("\n")
    for number, (line, code_line) in enumerate(zip(raw, code, strict=True), start=1):
        text = line.strip()
        if not text:
            out.n_blank_lines += 1
        elif len(text) > max_line_chars:
            out.n_long_lines += 1
        else:
            out.lines.append((number, text, " ".join(code_line.split()) if code_line != line else text))
    if not out.lines:
        out.reason = "no usable line"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def accounting(files: Iterable[CorpusFile]) -> dict[str, dict[str, int]]:
    """Return files, bytes and lines by what became of them; each column's sum is what came in."""
    table: dict[str, dict[str, int]] = {}

    def add(what: str, n_files: int, n_bytes: int, n_lines: int) -> None:
        row = table.setdefault(what, {"files": 0, "bytes": 0, "lines": 0})
        row["files"] += n_files
        row["bytes"] += n_bytes
        row["lines"] += n_lines

    for file in files:
        if file.kept:
            add("used", 1, file.n_bytes, len(file.lines))
            add("blank lines", 0, 0, file.n_blank_lines)
            add("lines too long", 0, 0, file.n_long_lines)
        else:
            add("duplicate" if file.reason.startswith("duplicate of ") else file.reason, 1, file.n_bytes, file.n_lines)
    return dict(sorted(table.items()))


def corpus_digest(files: Iterable[CorpusFile]) -> str:
    """Return a digest of what is used: paths and bytes of the kept files."""
    return digest(*(f"{f.source}\0{f.path}\0{f.sha256}" for f in files if f.kept))
