"""Members of a tar archive as a stream: nothing is extracted, no link followed, every framing error refused.

The standard library's reader ends silently at a cut between two members, ignores a second archive behind the first and
reads extended headers of any size; so only its parser of one 512-byte header is used (POSIX.1-2001 pax, GNU tar).
"""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

from commbert.corpus.naming import STANDS_TWICE, inner_name
from commbert.corpus.selection import Selection, SourceFile
from commbert.corpus.streams import ByteStream
from commbert.errors import SourceError

MAX_MEMBERS = 1_000_000
"""Three Linux kernels hold 250,000 files; a million empty ones are 5 MB of gzip and hours of work."""
_MAX_HEADER_BYTES = 2**20
"""Of an extended header; real ones hold a path and times."""
_MAX_FILE_BYTES = 2**60
_BLOCK = 512
_ZEROS = bytes(_BLOCK)
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_REASONS = {
    tarfile.SYMTYPE: "symbolic link",
    tarfile.LNKTYPE: "hard link",
    tarfile.GNUTYPE_SPARSE: "sparse file",
}
_FOLDERS = (tarfile.DIRTYPE, b"D")
_WITHOUT_DATA = (
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.DIRTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.FIFOTYPE,
)
"""Whatever size their header says, the next header follows at once."""


@dataclass(frozen=True)
class _Member:
    name: str
    kind: bytes
    n_bytes: int
    is_sparse: bool


def is_tar_header(block: bytes) -> bool:
    """Return whether the first 512 bytes of a file are those of a tar archive (an empty one is zeros)."""
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
        return True
    except (tarfile.HeaderError, ValueError):
        return False
    return True


def tar_files(
    source: str, stream: ByteStream, selection: Selection, *, max_bytes: int, where: str
) -> Iterator[SourceFile]:
    """Yield the files of one shard in the order of the archive, read or with a reason.

    Raises:
        SourceError: At the end too: files were right only if the whole archive was read.
    """
    names: set[str] = set()
    for member in _members(stream, where):
        path, reason = inner_name(member.name)
        is_folder = member.kind in _FOLDERS or (member.name.endswith("/") and not member.n_bytes)
        if is_folder or not selection.is_here(path):
            _skip(stream, _padded(member.n_bytes), where)
            continue
        reason = reason or _why_not(member) or (STANDS_TWICE if path in names else "") or selection.reason(path)
        if not reason and member.n_bytes > max_bytes:
            reason = "too large"
        names.add(path)
        data = None if reason else _read(stream, member.n_bytes, where)
        _skip(stream, _padded(member.n_bytes) - len(data or b""), where)
        yield SourceFile(source, path, member.n_bytes, data, reason)


def _why_not(member: _Member) -> str:
    if member.is_sparse:
        return _REASONS[tarfile.GNUTYPE_SPARSE]
    return "" if member.kind in _REGULAR else _REASONS.get(member.kind, "not a regular file")


def _members(stream: ByteStream, where: str) -> Iterator[_Member]:
    """Yield each member with the stream at its data; the caller passes over all of the data."""
    everywhere: dict[str, str] = {}
    here: dict[str, str] = {}
    n_members = 0
    while (block := _next_block(stream, n_members, where)) is not None:
        info = _parsed(block, n_members, where)
        if info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            here.update(_pax(_extended(stream, info.size, where), where))
        elif info.type == tarfile.XGLTYPE:
            everywhere.update(_pax(_extended(stream, info.size, where), where))
        elif info.type == tarfile.GNUTYPE_LONGNAME:
            here["path"] = _text(_extended(stream, info.size, where).split(b"\0", 1)[0])
        elif info.type == tarfile.GNUTYPE_LONGLINK:
            _extended(stream, info.size, where)
        else:
            n_members += 1
            if n_members > MAX_MEMBERS:
                raise SourceError(f"{where}: expected {MAX_MEMBERS:,} members at most, found more; refused.")
            if info.type == tarfile.GNUTYPE_SPARSE:
                _skip_sparse_map(stream, block, where)
            yield _member(info, {**everywhere, **here}, where)
            here = {}
    if here:
        raise SourceError(f"{where}: ends behind an extended header: the archive is damaged. Fetch it again.")


def _next_block(stream: ByteStream, n_members: int, where: str) -> bytes | None:
    """Return the next header, None at the end of the archive, which has zeros and nothing but zeros behind it."""
    block = stream.read(_BLOCK)
    if len(block) < _BLOCK:
        # Without its end of zeros, an archive that was cut between two members would merely have fewer files.
        raise SourceError(
            f"{where}: expected the tar archive's end, found the file's, after {n_members:,} members: "
            "the archive is cut off. Fetch it again."
        )
    if block != _ZEROS:
        return block
    while rest := stream.read(2**16):
        if rest.strip(b"\0"):
            raise SourceError(
                f"{where}: more data follows the end of the tar archive, after {n_members:,} members "
                "(are these two archives, one behind the other?); refused."
            )
    return None


def _parsed(block: bytes, n_members: int, where: str) -> tarfile.TarInfo:
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError) as error:
        raise SourceError(
            f"{where}: expected the header of member {n_members + 1:,}, found other data ({error}): "
            "the archive is damaged. Fetch it again."
        ) from error
    if not 0 <= info.size <= _MAX_FILE_BYTES:
        raise SourceError(f"{where}: {info.name!a} says that its size is {info.size}; refused.")
    return info


def _member(info: tarfile.TarInfo, pax: dict[str, str], where: str) -> _Member:
    size = info.size
    if "size" in pax:
        text = pax["size"]
        if not (text.isascii() and text.isdigit() and len(text) <= 19 and int(text) <= _MAX_FILE_BYTES):
            raise SourceError(f"{where}: {info.name!a} says that its size is {text[:30]!a}; refused.")
        size = int(text)
    if info.type in _WITHOUT_DATA:
        size = 0
    is_sparse = info.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse.") for key in pax)
    # The header parser takes the slash off a folder's name; in extended headers it still stands.
    return _Member(pax.get("path", info.name), info.type, size, is_sparse)


def _skip_sparse_map(stream: ByteStream, header: bytes, where: str) -> None:
    """Pass over the blocks that go on with the map of an old GNU sparse file."""
    goes_on = header[482]
    while goes_on:
        block = stream.read(_BLOCK)
        if len(block) < _BLOCK:
            raise SourceError(f"{where}: the archive is cut off in the map of a sparse file. Fetch it again.")
        goes_on = block[504]


def _extended(stream: ByteStream, n_bytes: int, where: str) -> bytes:
    if n_bytes > _MAX_HEADER_BYTES:
        raise SourceError(f"{where}: an extended header of {n_bytes:,} bytes (limit {_MAX_HEADER_BYTES:,}); refused.")
    data = _read(stream, n_bytes, where)
    _skip(stream, _padded(n_bytes) - n_bytes, where)
    return data


def _pax(data: bytes, where: str) -> dict[str, str]:
    r"""Return the records ``LENGTH key=value\n`` of a pax header that decide name, size and kind."""
    found: dict[str, str] = {}
    at = 0
    while at < len(data):
        digits, _, _ = data[at : at + 20].partition(b" ")
        end = at + int(digits) if digits.isdigit() else 0
        key, equals, value = data[at + len(digits) + 1 : end].partition(b"=")
        if not (at < end <= len(data) and equals and value.endswith(b"\n")):
            raise SourceError(f"{where}: a damaged extended header; refused. Fetch it again.")
        name = _text(key)
        if name in ("path", "size") or name.startswith("GNU.sparse."):
            found[name] = _text(value[:-1])
        at = end
    return found


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _padded(n_bytes: int) -> int:
    return -(-n_bytes // _BLOCK) * _BLOCK


def _read(stream: ByteStream, n_bytes: int, where: str) -> bytes:
    data = stream.read(n_bytes)
    if len(data) < n_bytes:
        raise SourceError(f"{where}: the archive is cut off inside of a member. Fetch it again.")
    return data


def _skip(stream: ByteStream, n_bytes: int, where: str) -> None:
    if stream.skip(n_bytes) < n_bytes:
        raise SourceError(f"{where}: the archive is cut off inside of a member. Fetch it again.")
