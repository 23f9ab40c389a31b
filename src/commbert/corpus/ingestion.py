"""Files to lines: decode, leave out what is no source text, and account for every file, byte and line."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from commbert.corpus.duplicates import LONG_LINE_CHARS
from commbert.corpus.selection import SourceFile
from commbert.settings.corpus import Cleaning
from commbert.text.cleaning import licence_header, why_not_source
from commbert.text.comments import without_comments
from commbert.text.decoding import decode, split_lines
from commbert.text.languages import language_of
from commbert.text.secrets import redacted, suspects

_CHUNK_CHARS = 2**20
"""Lines are handled in pieces of about this size: larger ones are slower, smaller ones cost calls."""
_VISIBLE = r"[^\s\p{C}\p{M}\x{FFFD}]"
"""A line without such a character is blank: BERT's tokenizers take all others away."""
_NO_HASHES = np.empty(0, np.uint64)


@dataclass
class IngestedFile:
    """One file: what came in, and what became of it."""

    path: str
    language: str
    n_bytes: int
    reason: str = ""
    """Why the file is not used; empty if it is."""
    encoding: str = ""
    sha256: str = ""
    split: str = ""
    """Where its source says that it belongs; empty if it does not."""
    n_lines: int = 0
    n_used_lines: int = 0
    n_blank_lines: int = 0
    n_long_lines: int = 0
    n_licence_lines: int = 0
    n_secrets: int = 0
    line_hashes: NDArray[np.uint64] = field(default_factory=lambda: _NO_HASHES)


@dataclass
class _Piece:
    """Whole files that wait to become lines."""

    files: list[tuple[int, IngestedFile]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    licences: list[tuple[int, int]] = field(default_factory=list)
    n_chars: int = 0


def ingest(
    files: Iterable[SourceFile], settings: Cleaning, write: Callable[[dict[str, Any]], None]
) -> tuple[list[IngestedFile], dict[str, int]]:
    """Read files into lines, in the caller's order.

    Args:
        files: Files of one shard.
        settings: What is left out.
        write: Takes the columns of the table shard/lines, piece by piece.

    Returns:
        All files, and the number of secrets that were replaced, by rule.
    """
    out: list[IngestedFile] = []
    secrets: dict[str, int] = {}
    piece = _Piece()
    for file in files:
        out.append(IngestedFile(file.path, language_of(file.path), file.n_bytes, file.reason, split=file.split))
        if file.data is not None:
            _read(out[-1], len(out) - 1, file.data, settings, piece)
        if piece.n_chars >= _CHUNK_CHARS:
            write(_lines_of(piece, settings, secrets))
            piece = _Piece()
    if piece.files:
        write(_lines_of(piece, settings, secrets))
    if settings.redact_secrets:
        _redact_paths(out, secrets)
    return out, secrets


def _redact_paths(files: list[IngestedFile], secrets: dict[str, int]) -> None:
    for file, is_suspect in zip(files, suspects([f.path for f in files]), strict=True):
        if is_suspect:
            file.path, found = redacted(file.path)
            _count(file, found, secrets)


def _count(file: IngestedFile, found: dict[str, int], secrets: dict[str, int]) -> None:
    file.n_secrets += sum(found.values())
    for rule, n in found.items():
        secrets[rule] = secrets.get(rule, 0) + n


def _read(file: IngestedFile, file_no: int, data: bytes, settings: Cleaning, piece: _Piece) -> None:
    file.sha256 = hashlib.sha256(data).hexdigest()
    decoded = decode(data)
    file.encoding = decoded.encoding
    if decoded.text is None:
        file.reason = "binary"
        return
    lines = split_lines(decoded.text)
    file.n_lines = len(lines)
    if not decoded.text.strip():
        file.reason = "empty"
        file.n_blank_lines = len(lines)
    elif settings.drop_generated:
        file.reason = why_not_source(lines, file.language)
    if file.reason:
        return
    piece.files.append((file_no, file))
    piece.texts.append("\n".join(lines))
    piece.licences.append(licence_header(lines, file.language) if settings.drop_licence_headers else (0, 0))
    piece.n_chars += len(decoded.text)


def _redact(piece: _Piece, secrets: dict[str, int]) -> None:
    for i, is_suspect in enumerate(suspects(piece.texts)):
        if is_suspect:
            piece.texts[i], found = redacted(piece.texts[i])
            _count(piece.files[i][1], found, secrets)


def _lines_of(piece: _Piece, settings: Cleaning, secrets: dict[str, int]) -> dict[str, Any]:
    """Return the columns of the lines that are used, and enter the others in their files' accounts."""
    if settings.redact_secrets:
        _redact(piece, secrets)
    codes = [without_comments(text, file.language) for text, (_, file) in zip(piece.texts, piece.files, strict=True)]
    n_lines = np.array([file.n_lines for _, file in piece.files])
    starts = np.concatenate([[0], np.cumsum(n_lines)])
    index = np.repeat(np.arange(len(piece.files)), n_lines)
    raw = pl.Series(["\n".join(piece.texts)]).str.split("\n").explode()
    begun = raw.str.strip_chars_start()
    text = begun.str.strip_chars_end()
    code = pl.Series(["\n".join(codes)]).str.split("\n").explode().str.strip_chars()
    is_licence = np.zeros(len(index), np.bool_)
    for start, (first, stop) in zip(starts, piece.licences, strict=False):
        is_licence[start + first : start + stop] = True
    n_chars = text.str.len_chars().to_numpy()
    is_blank = ~text.str.contains(_VISIBLE).to_numpy()
    is_licence &= ~is_blank
    is_long = (n_chars > settings.max_line_chars) & ~is_licence
    is_used = ~(is_blank | is_licence | is_long)
    columns = {"n_used_lines": is_used, "n_blank_lines": is_blank, "n_long_lines": is_long}
    columns["n_licence_lines"] = is_licence
    for name, mask in columns.items():
        for (_, file), n in zip(piece.files, np.bincount(index[mask], minlength=len(piece.files)), strict=True):
            setattr(file, name, int(n))
    used = pl.Series(is_used)
    _enter_hashes(piece, index[is_used], text.filter(used), n_chars[is_used])
    file_no = np.array([number for number, _ in piece.files], np.uint32)
    line_no = np.arange(len(index)) - starts[index] + 1
    return {
        "file_no": file_no[index[is_used]],
        "line_no": line_no[is_used].astype(np.uint32),
        "indent": _indents(raw.filter(used), begun.filter(used)),
        "text": text.filter(used).to_arrow(),
        "code": code.filter(used).to_arrow(),
    }


def _indents(raw: pl.Series, begun: pl.Series) -> NDArray[np.uint16]:
    """Return the columns of white space before each line; ``begun`` are the lines without it.

    A tab goes on to the next multiple of 8, and what stands before a form feed does not count (The Python Language
    Reference, 2.1.8).
    """
    columns = (raw.str.len_bytes() - begun.str.len_bytes()).to_numpy(writable=True)
    # Spaces have one byte; the few lines that begin with anything else share few beginnings.
    is_other = (raw.str.strip_chars_start(" ").str.len_bytes() != begun.str.len_bytes()).to_numpy()
    if is_other.any():
        of_others, rest = raw.filter(pl.Series(is_other)), begun.filter(pl.Series(is_other))
        leads = of_others.str.head(of_others.str.len_chars() - rest.str.len_chars())
        distinct = leads.unique()
        widths = [len(lead.rpartition("\f")[2].expandtabs(8)) for lead in distinct]
        columns[is_other] = leads.replace_strict(distinct, pl.Series(widths, dtype=pl.UInt32)).to_numpy()
    return np.asarray(np.minimum(columns, np.iinfo(np.uint16).max), np.uint16)


def _enter_hashes(piece: _Piece, index: NDArray[np.int64], text: pl.Series, n_chars: NDArray[Any]) -> None:
    # In UTF-8 a letter of ASCII has one byte and a Chinese character three: half of the bytes and characters together
    # is their width.
    long = (n_chars + text.str.len_bytes().to_numpy()) // 2 >= LONG_LINE_CHARS
    # The library's hash is the same in every process of one version; nothing that outlives a run holds it.
    frame = pl.DataFrame({"index": index[long], "hash": text.filter(pl.Series(long)).hash(17)}).unique()
    frame = frame.sort("index", "hash")
    bounds = np.searchsorted(frame["index"].to_numpy(), np.arange(len(piece.files) + 1))
    hashes = frame["hash"].to_numpy()
    for i, (_, file) in enumerate(piece.files):
        file.line_hashes = hashes[bounds[i] : bounds[i + 1]]
        if not file.n_used_lines:
            file.reason = "no usable line"


def file_columns(files: Sequence[IngestedFile]) -> dict[str, Any]:
    """Return the columns of the table shard/files, but for the list column."""
    names = [n for n in IngestedFile.__dataclass_fields__ if n != "line_hashes"]
    return {name: [getattr(f, name) for f in files] for name in names}


def accounting(columns: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, int]]:
    """Return files, bytes and lines by what became of them; each column's sum is what came in.

    Args:
        columns: Of the table corpus/files: reason, n_bytes, n_lines and the parts of the lines.
    """
    table: dict[str, dict[str, int]] = {}

    def add(what: str, n_files: int, n_bytes: int, n_lines: int) -> None:
        row = table.setdefault(what, {"files": 0, "bytes": 0, "lines": 0})
        row["files"] += n_files
        row["bytes"] += n_bytes
        row["lines"] += n_lines

    parts = {"n_blank_lines": "blank lines", "n_long_lines": "lines too long", "n_licence_lines": "licence headers"}
    for i, reason in enumerate(columns["reason"]):
        if reason:
            add(reason_class(reason), 1, columns["n_bytes"][i], columns["n_lines"][i])
            continue
        add("used", 1, columns["n_bytes"][i], columns["n_used_lines"][i])
        for name, what in parts.items():
            add(what, 0, 0, columns[name][i])
    return dict(sorted(table.items()))


def reason_class(reason: str) -> str:
    """Return a reason without the file that it names."""
    for start in ("duplicate of ", "near duplicate of "):
        if reason.startswith(start):
            return start.removesuffix(" of ")
    return reason
