"""Members of a zip archive, read one at a time and never extracted."""

import stat
import zipfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from commbert.corpus.naming import STANDS_TWICE, inner_name
from commbert.corpus.selection import Selection, SourceFile
from commbert.corpus.streams import FREE_EXPANSION_BYTES, MAX_EXPANSION
from commbert.corpus.tarballs import MAX_MEMBERS
from commbert.errors import SourceError

_ENTRY = b"PK\x01\x02"
_MIN_ENTRY_BYTES = 46
_MIN_LOCAL_BYTES = 30
_ENCRYPTED = 0x1
_READ_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""What all writers make; LZMA members may ask for 4 GiB of memory."""
_ERRORS = (OSError, EOFError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error)


def zip_files(source: str, file: BinaryIO, selection: Selection, *, max_bytes: int, where: str) -> Iterator[SourceFile]:
    """Yield the files of one shard in the order of ``selection``, read or with a reason.

    Raises:
        SourceError: If the archive or a member is damaged, overlaps another, or lies about its size.
    """
    n_bytes = file.seek(0, 2)
    _check_count(file, n_bytes, where)
    try:
        archive = zipfile.ZipFile(file)
    except _ERRORS as error:
        raise SourceError(f"{where}: expected a zip archive, found: {error}. Fetch it again.") from error
    with archive:
        members = archive.infolist()
        if len(members) > MAX_MEMBERS:
            raise SourceError(f"{where}: expected {MAX_MEMBERS:,} members at most, found {len(members):,}; refused.")
        _check_sizes(archive, members, n_bytes, where)
        here = [(path, reason, m) for path, reason, m in _named(members) if selection.is_here(path)]
        here.sort(key=lambda item: selection.order(item[0]))
        for path, unsafe, member in here:
            reason = unsafe or _why_not(member) or selection.reason(path)
            if not reason and member.file_size > max_bytes:
                reason = "too large"
            data = None if reason else _read(archive, member, where)
            yield SourceFile(source, path, member.file_size, data, reason)


def _named(members: list[zipfile.ZipInfo]) -> Iterator[tuple[str, str, zipfile.ZipInfo]]:
    names: set[str] = set()
    for member in members:
        if not (member.is_dir() and not member.file_size):
            # The name as it stands: the library's own one is cut at a NUL.
            path, reason = inner_name(member.orig_filename)
            yield path, reason or (STANDS_TWICE if path in names else ""), member
            names.add(path)


def _check_count(file: BinaryIO, n_bytes: int, where: str) -> None:
    """Refuse an archive of too many entries before the library makes an object of each."""
    file.seek(0)
    if n_bytes > MAX_MEMBERS * _MIN_ENTRY_BYTES:
        n_entries, tail = 0, b""
        while piece := file.read(2**20):
            n_entries += (tail + piece).count(_ENTRY)
            tail = piece[-len(_ENTRY) + 1 :]
        if n_entries > MAX_MEMBERS:
            raise SourceError(f"{where}: expected {MAX_MEMBERS:,} members at most, found {n_entries:,}; refused.")
        file.seek(0)


def _check_sizes(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], n_bytes: int, where: str) -> None:
    total = sum(m.file_size for m in members)
    if total > max(FREE_EXPANSION_BYTES, MAX_EXPANSION * n_bytes):
        raise SourceError(
            f"{where}: unpacks to {total:,} bytes, {MAX_EXPANSION} times its size or more: "
            "made to fill a machine; refused."
        )
    end = archive.start_dir
    for member in sorted(members, key=lambda m: m.header_offset, reverse=True):
        if member.header_offset < 0 or member.header_offset + _MIN_LOCAL_BYTES + member.compress_size > end:
            raise SourceError(f"{where}: {member.filename!a} overlaps what follows it in the archive; refused.")
        end = member.header_offset


def _why_not(member: zipfile.ZipInfo) -> str:
    mode = member.external_attr >> 16
    if stat.S_ISLNK(mode):
        return "symbolic link"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "not a regular file"
    if member.flag_bits & _ENCRYPTED:
        return "encrypted"
    return "" if member.compress_type in _READ_METHODS else "unknown compression"


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo, where: str) -> bytes:
    """Read a member; the library gives out no more than its header says, and compares the checksum at the end."""
    try:
        with archive.open(member) as file:
            data = file.read(member.file_size + 1)
    except _ERRORS as error:
        raise SourceError(f"{where}: {member.filename!a} cannot be read: {error}. Fetch the archive again.") from error
    if len(data) != member.file_size:
        raise SourceError(f"{where}: {member.filename!a} is not of the size that its header says; refused.")
    return data
