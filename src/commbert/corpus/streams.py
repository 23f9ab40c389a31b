"""Bytes out of a compressed file, a piece at a time, each stream checked to its very end."""

import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, Protocol

import zstandard

from commbert.errors import SourceError

MAX_EXPANSION = 200
"""Source text shrinks 3 to 10 times, logs 30; only what was made to burst shrinks more than 200 times."""
FREE_EXPANSION_BYTES = 2**30
"""Whatever the ratio, this much may come out: small archives of repeated text are no danger."""
_MAX_DICTIONARY_BYTES = 2**28
"""``xz -9`` needs 65 MiB to unpack, ``zstd --ultra`` 128 MiB; a header may ask for 4 GiB."""
_ZSTD_WINDOW_BYTES = 2**27


class _Decoder(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes: ...


# Pieces are small where little input can hold much output, so that one call's output stays near 32 MiB at most.
_FORMATS: tuple[tuple[bytes, str, int, Callable[[], _Decoder]], ...] = (
    (b"\x1f\x8b", "gzip", 2**14, lambda: zlib.decompressobj(31)),
    (b"\xfd7zXZ\x00", "xz", 2**10, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, _MAX_DICTIONARY_BYTES)),
    (
        b"\x28\xb5\x2f\xfd",
        "zstd",
        2**10,
        lambda: zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES).decompressobj(),
    ),
)
_ERRORS = (zlib.error, lzma.LZMAError, zstandard.ZstdError, EOFError, OSError, MemoryError)


class ByteStream:
    """Reads from pieces of bytes; counts what comes, and refuses when it is too much for the file it comes from."""

    def __init__(self, pieces: Iterator[bytes], n_file_bytes: int, where: str) -> None:
        self._pieces = pieces
        self._piece = b""
        self._at = 0
        self._n_bytes = 0
        self._limit = max(FREE_EXPANSION_BYTES, MAX_EXPANSION * n_file_bytes)
        self._where = where

    def read(self, n: int) -> bytes:
        """Return the next ``n`` bytes, fewer at the end."""
        parts: list[bytes] = []
        while n > 0 and self._is_filled():
            part = self._piece[self._at : self._at + n]
            self._at += len(part)
            n -= len(part)
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def skip(self, n: int) -> int:
        """Pass over ``n`` bytes; return how many there were."""
        left = n
        while left > 0 and self._is_filled():
            step = min(left, len(self._piece) - self._at)
            self._at += step
            left -= step
        return n - left

    def _is_filled(self) -> bool:
        while self._at == len(self._piece):
            piece = next(self._pieces, None)
            if piece is None:
                return False
            self._piece, self._at = piece, 0
            self._n_bytes += len(piece)
            if self._n_bytes > self._limit:
                raise SourceError(
                    f"{self._where}: unpacks to more than {self._limit:,} bytes, {MAX_EXPANSION} times its "
                    "size or more: made to fill a machine; refused."
                )
        return True


def open_stream(file: BinaryIO, where: str) -> ByteStream:
    """Return the bytes of a file, unpacked if it begins like gzip, xz or zstd."""
    n_bytes = file.seek(0, 2)
    file.seek(0)
    head = file.read(6)
    file.seek(0)
    for magic, name, n_piece, decoder in _FORMATS:
        if head.startswith(magic):
            return ByteStream(_unpacked(file, name, n_piece, decoder, where), n_bytes, where)
    return ByteStream(_plain(file, where), n_bytes, where)


def _plain(file: BinaryIO, where: str) -> Iterator[bytes]:
    try:
        while piece := file.read(2**18):
            yield piece
    except OSError as error:
        raise SourceError(f"{where}: cannot be read: {error}.") from error


def _unpacked(file: BinaryIO, name: str, n_piece: int, new: Callable[[], _Decoder], where: str) -> Iterator[bytes]:
    decoder = new()
    try:
        while data := file.read(n_piece):
            while data:
                if decoder.eof:
                    # Streams may follow each other, with zeros between them and behind the last one.
                    data = data.lstrip(b"\0")
                    if not data:
                        break
                    decoder = new()
                if out := decoder.decompress(data):
                    yield out
                data = decoder.unused_data if decoder.eof else b""
    except _ERRORS as error:
        raise SourceError(f"{where}: damaged {name} data ({error}). Fetch it again.") from error
    if not decoder.eof:
        raise SourceError(f"{where}: the {name} data is cut off. Fetch it again.")
