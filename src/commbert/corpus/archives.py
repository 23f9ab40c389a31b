"""Archives of any kind, told apart by their first bytes and not by their names."""

from collections.abc import Iterator
from typing import BinaryIO

from commbert.corpus.selection import Selection, SourceFile
from commbert.corpus.streams import open_stream
from commbert.corpus.tarballs import is_tar_header, tar_files
from commbert.corpus.zips import zip_files
from commbert.errors import SourceError

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
"""A first member, or the end of an archive without any."""


def archive_files(
    source: str, file: BinaryIO, selection: Selection, *, max_bytes: int, where: str
) -> Iterator[SourceFile]:
    """Yield the files of one shard: of a zip in the order of ``selection``, of a tar in its own order.

    A tar is one stream, so sorting would mean to hold it; whoever needs the order sorts by ``selection.order(path)``.
    Folders are no files. A folder that all names begin with stays in them.

    Raises:
        SourceError: If it is no archive, damaged, cut off, or made to fill a machine; at the end too.
    """
    if file.read(4) in _ZIP:
        yield from zip_files(source, file, selection, max_bytes=max_bytes, where=where)
        return
    if not is_tar_header(open_stream(file, where).read(512)):
        raise SourceError(
            f"{where}: expected a zip or tar archive (plain, gzip, xz or zstd), found neither. Check its path."
        )
    yield from tar_files(source, open_stream(file, where), selection, max_bytes=max_bytes, where=where)
