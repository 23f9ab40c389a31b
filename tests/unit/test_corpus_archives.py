import gzip
import io
import lzma
import os
import struct
import tarfile
import zipfile

import pytest
import zstandard

from commbert.corpus import streams, tarballs, zips
from commbert.errors import CommbertError, SourceError
from commbert.settings.corpus import ArchiveSource
from corpus_case import archive, found, header, read, tar_bytes

FILES = [("p-1/a.c", b"int a;\n"), ("p-1/b/c.h", b"int c;\n" * 100)]
PACKED = {
    "tar": lambda data: data,
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "xz": lzma.compress,
    "zstd": lambda data: zstandard.ZstdCompressor(write_checksum=True).compress(data),
}
packings = pytest.mark.parametrize("packed", PACKED.values(), ids=PACKED)


def put(tmp_path, data, name="x"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


def zipped(path, members, **changes):
    with zipfile.ZipFile(path, "w", changes.pop("compression", zipfile.ZIP_DEFLATED)) as out:
        for member, data in members:
            info = member if isinstance(member, zipfile.ZipInfo) else zipfile.ZipInfo(member)
            info.compress_type = out.compression
            out.writestr(info, data)
    return path


def refused(path, message, **options):
    with pytest.raises(SourceError, match=message) as caught:
        read(archive(path), **options)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("source s: ")


# The kinds of archive


@packings
def test_a_tar_is_read_whatever_packs_it_and_whatever_it_is_called(tmp_path, packed):
    assert found(archive(put(tmp_path, packed(tar_bytes(FILES)), "some.data"))) == dict(FILES)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names_are_read_in_all_tar_formats(tmp_path, form):
    long = "d" * 90 + "/" + "f" * 90 + ".c"
    other = "é/" + ("é" * 40 if form == tarfile.USTAR_FORMAT else "é" * 120) + ".c"
    assert found(archive(put(tmp_path, tar_bytes([(long, b"1"), (other, b"2")], format=form)))) == {
        long: b"1",
        other: b"2",
    }


def test_a_zip_is_read_in_the_order_that_no_number_of_shards_changes(tmp_path):
    source = archive(zipped(tmp_path / "x", [(f"d{i}/f{j}", b"%d" % i) for i in range(9) for j in (1, 0)]))
    paths = [f.path for f in read(source)]
    four = source.model_copy(update={"shards": 4})
    assert [f.path for shard in range(4) for f in read(four, shard=shard)] == paths
    assert len(paths) == 18


@packings
def test_the_shards_of_a_tar_hold_each_file_once(tmp_path, packed):
    members = [(f"d{i}/f", b"%d" % i) for i in range(30)]
    source = archive(put(tmp_path, packed(tar_bytes(members))), shards=3)
    shards = [found(source, shard=shard) for shard in range(3)]
    assert sum(map(len, shards)) == 30
    assert {k: v for shard in shards for k, v in shard.items()} == dict(members)
    assert all(shards)


def test_patterns_and_size_leave_members_out_with_their_reasons(tmp_path):
    members = [("a.c", b"a"), ("b.md", b"b"), ("t/c.c", b"c"), ("d.c", b"d" * 11)]
    expected = {"a.c": b"a", "b.md": "not included", "t/c.c": "excluded", "d.c": "too large"}
    rules = {"include": ("*.c",), "exclude": ("t/",)}
    assert found(archive(put(tmp_path, tar_bytes(members)), **rules), max_bytes=10) == expected
    assert found(archive(zipped(tmp_path / "z", members), **rules), max_bytes=10) == expected


def test_folders_are_no_files_and_a_dot_in_front_is_no_part_of_a_name(tmp_path):
    folder = header("./p", type=tarfile.DIRTYPE)
    assert found(archive(put(tmp_path, tar_bytes([(folder, b""), ("./p/a", b"1")])))) == {"p/a": b"1"}
    assert found(archive(zipped(tmp_path / "z", [("p/", b""), ("./p/a", b"1")]))) == {"p/a": b"1"}


def test_an_empty_archive_has_no_files(tmp_path):
    assert found(archive(put(tmp_path, tar_bytes([])))) == {}
    assert found(archive(zipped(tmp_path / "z", []))) == {}


# The archive as a whole


def test_an_archive_of_another_digest_is_refused_with_both_digests_and_what_to_do(tmp_path):
    path = put(tmp_path, tar_bytes(FILES))
    source = archive(path)
    path.write_bytes(tar_bytes(FILES[:1]))
    with pytest.raises(
        SourceError, match=rf"source s: expected sha256 {source.sha256}, found [0-9a-f]{{64}}\. The .* fetch"
    ):
        read(source)


def test_a_missing_archive_a_folder_and_a_fifo_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for name, reason in (("none", "No such file"), ("", "a folder or device"), ("fifo", "a folder or device")):
        source = ArchiveSource(kind="archive", name="s", path=str(tmp_path / name), sha256="0" * 64)
        with pytest.raises(SourceError, match=f"source s: expected a file at .*{reason}"):
            read(source)


def test_an_archive_with_an_address_is_read_from_the_fetched_file(tmp_path):
    path = put(tmp_path, tar_bytes(FILES))
    given = archive(path).model_dump() | {"path": None, "url": "https://example.org/x.tar"}
    assert found(ArchiveSource(**given), path) == dict(FILES)
    with pytest.raises(SourceError, match="source s: the archive was not fetched"):
        read(ArchiveSource(**given))


@pytest.mark.parametrize(
    "data", [b"", b"text\n" * 500, b"\x7fELF" + bytes(600), b"BZh91AY&SY", b"PK\x01\x02", b"\0" * 100]
)
def test_what_is_no_archive_is_refused(tmp_path, data):
    refused(put(tmp_path, data), "expected a zip or tar archive .*, found neither")


@pytest.mark.parametrize("pack", ["gzip", "xz", "zstd"])
def test_packed_text_that_is_no_tar_is_refused(tmp_path, pack):
    refused(put(tmp_path, PACKED[pack](b"text\n" * 500)), "found neither")


@packings
def test_a_tar_cut_inside_of_a_member_is_refused(tmp_path, packed):
    refused(put(tmp_path, packed(tar_bytes(FILES)[: 512 * 2 + 200])), "cut off")


@packings
def test_a_tar_cut_between_members_is_refused(tmp_path, packed):
    refused(put(tmp_path, packed(tar_bytes(FILES)[:1024])), "after 1 members: the archive is cut off")


@packings
def test_a_tar_that_ends_within_its_first_zeros_is_refused_and_one_zero_block_is_an_end(tmp_path, packed):
    whole = tar_bytes(FILES[:1])
    refused(put(tmp_path, packed(whole[: 1024 + 511])), "cut off")
    assert found(archive(put(tmp_path, packed(whole[: 1024 + 512])))) == dict(FILES[:1])


@pytest.mark.parametrize("pack", ["gzip", "xz", "zstd"])
@pytest.mark.parametrize("missing", [1, 4, 9, 40])
def test_packed_data_cut_at_its_end_is_refused(tmp_path, pack, missing):
    refused(put(tmp_path, PACKED[pack](tar_bytes(FILES))[:-missing]), "cut off|damaged")


@pytest.mark.parametrize("pack", ["gzip", "xz", "zstd"])
def test_a_flipped_bit_of_the_checksum_behind_the_tar_is_refused(tmp_path, pack):
    data = bytearray(PACKED[pack](tar_bytes(FILES)))
    data[-6 if pack == "gzip" else -1 if pack == "zstd" else -40] ^= 1
    refused(put(tmp_path, data), f"damaged {pack} data")


@packings
def test_two_tars_one_behind_the_other_are_refused(tmp_path, packed):
    refused(put(tmp_path, packed(tar_bytes(FILES) + tar_bytes([("d", b"d")]))), "more data follows the end")


@pytest.mark.parametrize("pack", ["gzip", "xz", "zstd"])
def test_two_packed_tars_one_behind_the_other_are_refused(tmp_path, pack):
    refused(put(tmp_path, PACKED[pack](tar_bytes(FILES)) * 2), "more data follows the end")


@pytest.mark.parametrize("pack", ["gzip", "xz", "zstd"])
def test_garbage_behind_the_packed_data_is_refused_and_zeros_are_not(tmp_path, pack):
    data = PACKED[pack](tar_bytes(FILES))
    refused(put(tmp_path, data + b"garbage" * 9), f"damaged {pack} data")
    assert found(archive(put(tmp_path, data + bytes(512)))) == dict(FILES)


@pytest.mark.parametrize("pack", ["gzip", "xz", "zstd"])
def test_a_tar_packed_in_two_streams_is_read(tmp_path, pack):
    data = tar_bytes(FILES)
    assert found(archive(put(tmp_path, PACKED[pack](data[:700]) + PACKED[pack](data[700:])))) == dict(FILES)


def test_a_damaged_header_is_refused_with_the_number_of_its_member(tmp_path):
    data = bytearray(tar_bytes(FILES))
    data[1024] ^= 1
    refused(put(tmp_path, data), "expected the header of member 2, found other data")


@packings
def test_a_tar_that_unpacks_to_too_much_is_refused(tmp_path, packed, monkeypatch):
    monkeypatch.setattr(streams, "FREE_EXPANSION_BYTES", 2**20)
    path = put(tmp_path, packed(tar_bytes([("a", bytes(2**22))])))
    if path.stat().st_size < 2**21:
        refused(path, "unpacks to more than 1,048,576 bytes, 200 times its size or more: .*; refused", max_bytes=2**30)
    else:
        assert len(found(archive(path), max_bytes=2**30)) == 1


def test_a_small_archive_of_repeated_text_is_read_although_it_shrank_much(tmp_path):
    assert (
        len(found(archive(put(tmp_path, lzma.compress(tar_bytes([("a", b"int a;\n" * 10**6)])))), max_bytes=10**7)) == 1
    )


def test_more_members_than_the_limit_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tarballs, "MAX_MEMBERS", 3)
    monkeypatch.setattr(zips, "MAX_MEMBERS", 3)
    members = [(f"f{i}", b"") for i in range(4)]
    assert len(found(archive(put(tmp_path, tar_bytes(members[:3]))))) == 3
    refused(put(tmp_path, tar_bytes(members)), "expected 3 members at most")
    refused(zipped(tmp_path / "z", members), "expected 3 members at most")


def test_a_zip_of_too_many_members_is_refused_before_it_is_opened(tmp_path, monkeypatch):
    path = zipped(tmp_path / "z", [(f"f{i}", b"") for i in range(4)])
    monkeypatch.setattr(zips, "MAX_MEMBERS", 3)
    monkeypatch.setattr(zipfile, "ZipFile", None)
    refused(path, "expected 3 members at most, found 4")


# Members


HOSTILE_NAMES = ["/etc/passwd", "../x", "a/../../x", "a\\b", "C:x", "C:\\x", "a/..", ".."]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_member_whose_name_leads_away_is_passed_over_as_unsafe_and_the_others_are_read(tmp_path, name):
    members = [("a", b"1"), (name, b"2"), ("b", b"3")]
    expected = {"a": b"1", name: "unsafe name", "b": b"3"}
    assert found(archive(put(tmp_path, tar_bytes(members)))) == expected
    assert found(archive(zipped(tmp_path / "z", members))) == expected


@pytest.mark.parametrize("name", ["..x", "a..b", "...", "a/...c", "ab:c"])
def test_dots_inside_of_a_name_are_fine(tmp_path, name):
    assert found(archive(put(tmp_path, tar_bytes([(name, b"1")])))) == {name: b"1"}


def test_a_name_longer_than_any_path_is_unsafe_and_shown_short(tmp_path):
    [file] = read(archive(put(tmp_path, tar_bytes([("d/" * 5000 + "f", b"1")]))))
    assert (file.reason, len(file.path)) == ("unsafe name", 203)


def test_links_and_devices_are_passed_over_and_what_lies_behind_a_link_is_data(tmp_path):
    kinds = {
        "l": tarfile.SYMTYPE,
        "h": tarfile.LNKTYPE,
        "c": tarfile.CHRTYPE,
        "b": tarfile.BLKTYPE,
        "p": tarfile.FIFOTYPE,
    }
    members = [(header(n, type=k, linkname="/etc"), b"") for n, k in kinds.items()] + [("l/passwd", b"1")]
    other = dict.fromkeys("cbp", "not a regular file")
    expected = {"l": "symbolic link", "h": "hard link", **other, "l/passwd": b"1"}
    assert found(archive(put(tmp_path, tar_bytes(members)))) == expected


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_the_size_that_a_link_or_folder_says_is_not_passed_over(tmp_path, kind):
    block = header("l", 512, type=kind).tobuf(tarfile.GNU_FORMAT)
    assert found(archive(put(tmp_path, block + tar_bytes([("a", b"1")]))))["a"] == b"1"


def test_a_name_that_stands_twice_is_read_once(tmp_path):
    members = [("a", b"1"), ("./a", b"2"), ("A", b"3")]
    for path in (put(tmp_path, tar_bytes(members)), zipped(tmp_path / "z", members)):
        files = read(archive(path))
        assert sorted((f.path, f.data, f.reason) for f in files if f.data) == [("A", b"3", ""), ("a", b"1", "")]
        assert [f.reason for f in files if not f.data] == ["name stands twice"]


def test_bytes_of_a_name_that_are_no_utf8_are_shown(tmp_path):
    data = tar_bytes([(os.fsdecode(b"n\xff.c"), b"1")], format=tarfile.GNU_FORMAT, errors="surrogateescape")
    assert found(archive(put(tmp_path, data))) == {"n\\xff.c": b"1"}


def test_a_sparse_member_is_passed_over_with_its_map(tmp_path):
    info = header("hole", type=tarfile.GNUTYPE_SPARSE)
    info.size = 512
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[482] = 1  # the map goes on in one more block
    block[148:156] = b"%06o\0 " % (sum(block[:148]) + 8 * 32 + sum(block[156:]))
    data = bytes(block) + bytes(512) + b"x" * 512 + tar_bytes([("a", b"1")])
    assert found(archive(put(tmp_path, data))) == {"hole": "sparse file", "a": b"1"}
    pax = header("hole", pax_headers={"GNU.sparse.major": "1"})
    data = tar_bytes([(pax, b"x"), ("a", b"1")], format=tarfile.PAX_FORMAT)
    assert found(archive(put(tmp_path, data))) == {"hole": "sparse file", "a": b"1"}


def test_a_global_header_such_as_git_writes_is_no_file(tmp_path):
    data = tar_bytes(FILES, format=tarfile.PAX_FORMAT, pax_headers={"comment": "0" * 40})
    assert found(archive(put(tmp_path, data))) == dict(FILES)


def sized(size_field):
    """Return a member header with its size field overwritten and its checksum right."""
    block = bytearray(header("a").tobuf(tarfile.GNU_FORMAT))
    block[124:136] = size_field
    block[148:156] = b"%06o\0 " % (sum(block[:148]) + 8 * 32 + sum(block[156:]))
    return bytes(block)


def test_a_negative_and_an_endless_size_are_refused(tmp_path):
    refused(put(tmp_path, sized(b"\xff" * 12) + bytes(1024)), "says that its size is -1; refused")
    refused(put(tmp_path, sized(b"\x80" + b"\xff" * 11) + bytes(1024)), r"says that its size is \d+; refused")
    refused(put(tmp_path, sized(b"77777777777\0") + bytes(1024)), "cut off inside of a member")


@pytest.mark.parametrize("size", ["-1", "1e3", "9" * 30, "", "\u0663"])
def test_a_size_that_is_no_number_in_an_extended_header_is_refused(tmp_path, size):
    record = f" size={size}\n".encode()
    record = str(len(record) + 2).encode() + record
    block = header("x", len(record), type=tarfile.XHDTYPE).tobuf(tarfile.USTAR_FORMAT)
    data = block + record.ljust(512, b"\0") + tar_bytes([("a", b"1")])
    refused(put(tmp_path, data), "'a' says that its size is|damaged extended header")


@pytest.mark.parametrize(
    "record", [b"5 a=", b"99 path=x\n", b"x path=x\n", b"0 path=x\n", b"8 path=x\n", b"-9 path=x\n", b"11 path\xb2x\n"]
)
def test_a_damaged_extended_header_is_refused(tmp_path, record):
    block = header("x", len(record), type=tarfile.XHDTYPE).tobuf(tarfile.USTAR_FORMAT)
    refused(put(tmp_path, block + record.ljust(512, b"\0") + tar_bytes(FILES)), "damaged extended header")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_an_extended_header_of_many_megabytes_is_refused_unread(tmp_path, kind):
    block = header("x", 2**33, type=kind).tobuf(tarfile.GNU_FORMAT)
    refused(put(tmp_path, block + bytes(4096)), "an extended header of 8,589,934,592 bytes .*refused")


def test_an_extended_header_without_its_member_is_refused(tmp_path):
    block = header("x", 10, type=tarfile.GNUTYPE_LONGNAME).tobuf(tarfile.GNU_FORMAT)
    refused(put(tmp_path, block + b"name".ljust(512, b"\0") + bytes(1024)), "ends behind an extended header")


def test_an_xz_header_that_asks_for_much_memory_is_refused(tmp_path):
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 2**20}]
    data = bytearray(lzma.compress(tar_bytes(FILES), filters=filters, check=lzma.CHECK_NONE))
    at = data.index(b"\x21\x01", 12) + 2
    data[at] = 39  # 3 GiB
    size = (data[12] + 1) * 4
    data[12 + size - 4 : 12 + size] = struct.pack("<I", __import__("zlib").crc32(data[12 : 12 + size - 4]))
    refused(put(tmp_path, data), "damaged xz data .*[Mm]emory")


def test_a_zstd_window_of_a_gigabyte_is_refused(tmp_path):
    parameters = zstandard.ZstdCompressionParameters(window_log=30, compression_level=1)
    out = io.BytesIO()
    with zstandard.ZstdCompressor(compression_params=parameters).stream_writer(out, closefd=False) as writer:
        writer.write(tar_bytes(FILES))
    refused(put(tmp_path, out.getvalue()), "damaged zstd data")


# Zip only


def linked(name, mode):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def test_links_and_devices_in_a_zip_are_passed_over(tmp_path):
    path = zipped(tmp_path / "z", [(linked("l", 0o120777), b"/etc/passwd"), (linked("p", 0o010644), b""), ("a", b"1")])
    assert found(archive(path)) == {"l": "symbolic link", "p": "not a regular file", "a": b"1"}


def test_an_encrypted_member_is_passed_over(tmp_path):
    path = zipped(tmp_path / "z", [("a", b"1"), ("b", b"2")])
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    assert found(archive(put(tmp_path, data, "z"))) == {"a": "encrypted", "b": b"2"}


def test_a_member_packed_in_a_way_that_is_not_read_is_passed_over(tmp_path):
    assert found(archive(zipped(tmp_path / "z", [("a", b"1")], compression=zipfile.ZIP_LZMA))) == {
        "a": "unknown compression"
    }


def patched(path, signature, offset, value):
    data = bytearray(path.read_bytes())
    at = data.rindex(signature) + offset
    data[at : at + 4] = struct.pack("<I", value)
    path.write_bytes(data)
    return path


def test_members_that_share_their_bytes_are_refused(tmp_path):
    path = zipped(tmp_path / "z", [("a", os.urandom(500)), ("b", os.urandom(500))])
    refused(patched(path, b"PK\x01\x02", 42, 0), "overlaps what follows it")


def test_a_member_that_reaches_into_the_directory_is_refused(tmp_path):
    path = zipped(tmp_path / "z", [("a", b"x" * 100)], compression=zipfile.ZIP_STORED)
    refused(patched(path, b"PK\x01\x02", 20, 10_000), "overlaps what follows it")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("size", [5, 50])
def test_a_member_that_lies_about_its_size_is_refused(tmp_path, compression, size):
    path = zipped(tmp_path / "z", [("a", b"0123456789")], compression=compression)
    refused(patched(path, b"PK\x01\x02", 24, size), "'a'")


def test_a_zip_that_unpacks_to_too_much_is_refused_by_what_it_says(tmp_path, monkeypatch):
    monkeypatch.setattr(zips, "FREE_EXPANSION_BYTES", 2**20)
    refused(zipped(tmp_path / "z", [("a", bytes(2**22))]), "unpacks to 4,194,304 bytes, 200 times its size or more")


def test_a_large_member_of_a_zip_is_not_unpacked(tmp_path, monkeypatch):
    path = zipped(tmp_path / "z", [("a", bytes(10**7))])
    monkeypatch.setattr(zipfile.ZipFile, "open", None)
    assert found(archive(path)) == {"a": "too large"}


def test_a_zip_cut_at_its_end_is_refused(tmp_path):
    path = zipped(tmp_path / "z", FILES)
    refused(put(tmp_path, path.read_bytes()[:-30]), "expected a zip archive")


# Any damage at all


def damaged(data, rng):
    """Return the data with one to four bytes changed, or a piece left out, doubled or cut off."""
    out = bytearray(data)
    kind = rng.integers(8)
    at = int(rng.integers(len(out)))
    if kind == 0:
        del out[at:]
    elif kind == 1:
        del out[at : at + int(rng.integers(1, 600))]
    elif kind == 2:
        out[at:at] = out[at : at + int(rng.integers(1, 600))]
    else:
        for _ in range(int(rng.integers(1, 5))):
            out[int(rng.integers(len(out)))] = int(rng.integers(256))
    return bytes(out)


def damages_refused(tmp_path, make_source, data, n):
    import numpy as np

    rng = np.random.default_rng(17)
    n_refused = n_lines = 0
    for _ in range(n):
        path = tmp_path / "x"
        path.write_bytes(damaged(data, rng))
        try:
            read(make_source(path))
        except CommbertError as error:
            n_refused += 1
            n_lines = max(n_lines, len(str(error).splitlines()))
    assert n_lines == 1
    return n_refused


def examples(tmp_path):
    tar = tar_bytes([*FILES, ("é" * 60, b"1"), (header("l", type=tarfile.SYMTYPE), b"")], format=tarfile.PAX_FORMAT)
    gnu = tar_bytes([*FILES, ("x" * 120, b"1"), ("b", b"2")], format=tarfile.GNU_FORMAT)
    whole = zipped(tmp_path / "z", [*FILES, ("é", b"1"), ("s", b"22")]).read_bytes()
    return {"tar": tar, "gnu": gnu, "zip": whole} | {p: PACKED[p](tar) for p in ("gzip", "xz", "zstd")}


@pytest.mark.parametrize("kind", ["tar", "gnu", "zip", "gzip", "xz", "zstd"])
def test_two_hundred_damaged_archives_give_files_or_one_line(tmp_path, kind):
    assert damages_refused(tmp_path, archive, examples(tmp_path)[kind], 200) > 20


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tar", "gnu", "zip", "gzip", "xz", "zstd"])
def test_ten_thousand_damaged_archives_give_files_or_one_line(tmp_path, kind):
    assert damages_refused(tmp_path, archive, examples(tmp_path)[kind], 10_000) > 1000
