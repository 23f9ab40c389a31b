"""Corpora of real code in three sizes and one subset, for data.py; the text is fetched, never part of this repository.

    python tests/benchmarks/data_corpus.py --work DIR [--sizes 20k,71k,500k,5M]

The text is C, C++ and Python from three pinned wheels, read member by member and never installed. Left out are the
generated ASN.1 tables of pycrate (1.6 of its 1.8 million lines, 89 bytes each), files that are no clean UTF-8, files
with a line of more than 2,000 characters, and all but one of identical files. What is left is cut into nested subsets
in an order of hashes, so that each has the same mix; sizes beyond the whole of it take copies in which the identifiers
of few files are renamed: ``pusch_decode`` becomes ``qpsk_decode`` or ``puschk_decode``. Most lines of a copy are thus
its own, the words keep their lengths, and the vocabulary grows with the corpus as it does with real code.

Everything is a function of the wheels: a second run finds DIR/corpora/<size> and its manifest and does nothing.
"""

import argparse
import hashlib
import random
import re
import shutil
import subprocess
import sys
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commbert.artifacts import read_json, sha256_file, write_json
from commbert.text.languages import KEYWORDS

VERSION = 1
"""Raise it when what is built changes."""
SIZES = {"20k": 20_000, "71k": 71_000, "500k": 500_000, "5M": 5_000_000}
MAX_LINE_CHARS, MAX_FILE_BYTES = 2000, 4 * 2**20
"""What commbert drops by default; the alternatives would not, and all must read the same lines."""
RARE_FILES = 40
"""Identifiers of at least this many files (``size_t``, ``include``) keep their names in copies."""
_IDENTIFIER = re.compile(r"\b[a-zA-Z_][a-zA-Z0-9_]*\b")
_COMPONENT = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_ODD = re.compile(r"[^\S \t\n]|[\x00-\x08\x0e-\x1f\x7f\ufeff]")
"""Other white space than blanks, tabs and newlines, and control characters: Python's and other splitters differ."""


@dataclass(frozen=True)
class Wheel:
    """A pinned wheel and the members that are read."""

    package: str
    version: str
    sha256: str
    license: str
    include: str
    """Regular expression that member names begin with."""
    exclude: str = r"(?!)"


WHEELS = (
    Wheel(
        "sionna-no-rt",
        "2.2.0",
        "8ae7744ec53ff5e4da78b2d65075867ab5fbd88e1ec68e46d7daeb281c35a7b5",
        "Apache-2.0",
        r"sionna/.*\.py$",
    ),
    Wheel(
        "pycrate",
        "0.8.1",
        "65c4dd48d93248a0a4aa2fc78bab10ea64087c6382827035fae9f8bba343db53",
        "LGPL-2.1-or-later",
        r"pycrate_.*\.py$",
        exclude=r"pycrate_asn1dir/",
    ),
    Wheel(
        "ziglang",
        "0.13.0",
        "3ce0c9f16547e5d61b32e0d226926e9a2552ef4b91fccf7ab5ea1a623a77824b",
        "MIT (musl); Apache-2.0 WITH LLVM-exception; LGPL-2.1-or-later (glibc); GPL-2.0 WITH Linux-syscall-note",
        # C libraries, the C++ library, run-time libraries, Linux and macOS headers; no copies of them for other
        # systems, no vector intrinsics and no Windows interfaces, which are tables.
        r"ziglang/lib/(libc/(musl/(src|include)|glibc|include/(generic-glibc|any-linux-any|any-macos-any))|"
        r"libcxx|libcxxabi|libunwind|tsan)/.*\.(c|h|cpp|hpp|cc)$",
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of wheels and corpora")
    parser.add_argument("--sizes", default=",".join(SIZES), help="separated by commas")
    args = parser.parse_args()
    for size in args.sizes.split(","):
        folder = build(args.work, size)
        shown = {k: v for k, v in read_json(folder.with_suffix(".json")).items() if k not in ("key", "wheels")}
        print(f"{folder}: {shown}", flush=True)


def build(work: Path, size: str) -> Path:
    """Return the folder of the corpus, made if it is not there; its manifest lies beside it, with suffix .json."""
    if size not in SIZES:
        sys.exit(f"--sizes: expected some of {', '.join(SIZES)}, found {size!r}.")
    wheels = [{"package": w.package, "version": w.version, "sha256": w.sha256, "license": w.license} for w in WHEELS]
    return build_lines(
        work / "corpora" / size, SIZES[size], lambda: _base_text(work), key=_key(size), about={"wheels": wheels}
    )


def build_lines(
    folder: Path, n_lines: int, base: Callable[[], Mapping[str, str]], *, key: str, about: Mapping[str, Any]
) -> Path:
    """Return a folder of so many lines, cut from a base text and renamed copies of it, made if it is not there.

    Args:
        base: Gives the usable text by name, in the order that subsets are cut in.
        key: Decides, with what the manifest beside the folder says, whether the corpus is there.
        about: What the manifest says of the text.
    """
    manifest = folder.with_suffix(".json")
    if manifest.is_file() and read_json(manifest)["key"] == key:
        return folder
    manifest.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    digest, count = hashlib.sha256(), _Count()
    for name, text in _chosen(base(), n_lines):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = text.encode()
        path.write_bytes(data)
        digest.update(f"{name}\0{len(data)}\0".encode() + data)
        count.add(name, text)
    write_json(manifest, {"key": key, "sha256": digest.hexdigest(), **count.as_dict(), **about})
    return folder


def build_scaled(work: Path, n_lines: int, own: Path | None) -> Path:
    """Return a corpus of any number of lines: of the pinned wheels, or of the Python and C files below a folder."""
    if own is None:
        name, about = "wheels", {"text": "pinned wheels"}
    else:
        name, about = "own", {"text": "files of this machine"}
    key = f"{VERSION} {n_lines} {RARE_FILES} {own.resolve() if own else WHEELS}"
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    folder = work / "corpora" / f"{name}-{n_lines}"
    return build_lines(folder, n_lines, lambda: _own_text(own) if own else _base_text(work), key=digest, about=about)


def _own_text(folder: Path) -> dict[str, str]:
    """Return the usable text below a folder, once each, in the order of hashes."""
    texts: dict[str, str] = {}
    seen: set[bytes] = set()
    for path in sorted(folder.rglob("*")):
        if path.suffix not in (".py", ".c", ".h", ".cpp", ".hpp", ".cc") or not path.is_file():
            continue
        data = path.read_bytes()
        key = hashlib.sha256(data).digest()
        text = _clean(data) if len(data) <= MAX_FILE_BYTES else None
        if text is not None and key not in seen:
            seen.add(key)
            texts[path.relative_to(folder).as_posix()] = text
    return _in_order(texts)


def _key(size: str) -> str:
    parts = [str(VERSION), str(SIZES[size]), str(RARE_FILES), *(f"{w}" for w in WHEELS)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


class _Count:
    """What a corpus holds."""

    def __init__(self) -> None:
        self.n_files = self.n_bytes = self.n_lines = self.n_line_bytes = 0
        self.lines_of: Counter[str] = Counter()
        self.words: set[str] = set()
        self.pretokens: set[str] = set()
        self.distinct_lines: set[int] = set()

    def add(self, name: str, text: str) -> None:
        lines = lines_of(text)
        self.n_files += 1
        self.n_bytes += len(text.encode())
        self.n_lines += len(lines)
        self.n_line_bytes += sum(len(line.encode()) + 1 for line in lines)
        self.lines_of[Path(name).suffix] += len(lines)
        found = set(_IDENTIFIER.findall(text.lower()))
        self.words |= found
        self.pretokens |= {part for word in found for part in word.split("_") if part}
        self.distinct_lines |= {hash(line) for line in lines}

    def as_dict(self) -> dict[str, Any]:
        return {
            "n_files": self.n_files,
            "n_bytes": self.n_bytes,
            "n_lines": self.n_lines,
            "bytes_per_line": round(self.n_line_bytes / max(self.n_lines, 1), 1),
            "distinct_lines_pct": round(100 * len(self.distinct_lines) / max(self.n_lines, 1), 1),
            "n_words": len(self.words),
            "n_word_parts": len(self.pretokens),
            "lines_by_suffix": dict(self.lines_of.most_common()),
        }


def lines_of(text: str) -> list[str]:
    """Return the code lines of a text: stripped, without blank ones."""
    return [line for raw in text.split("\n") if (line := raw.strip())]


def _base_text(work: Path) -> dict[str, str]:
    """Return the usable text of all wheels by name, in the order of hashes that subsets are cut in."""
    texts: dict[str, str] = {}
    seen: set[bytes] = set()
    for wheel in WHEELS:
        for name, data in _members(_fetched(work, wheel), wheel):
            text = _clean(data)
            key = hashlib.sha256(data).digest()
            if text is not None and key not in seen:
                seen.add(key)
                texts[f"{wheel.package}/{name}"] = text
    return _in_order(texts)


def _in_order(texts: Mapping[str, str]) -> dict[str, str]:
    """Return the texts in the order of hashes of their names, so that each subset has the same mix."""
    return dict(sorted(texts.items(), key=lambda item: hashlib.sha256(item[0].encode()).digest()))


def _fetched(work: Path, wheel: Wheel) -> Path:
    """Return the wheel's file, downloaded if it is not there; another digest is refused."""
    folder = work / "wheels" / f"{wheel.package}-{wheel.version}"
    found = sorted(folder.glob("*.whl"))
    if not found:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--disable-pip-version-check", "--dest", str(folder), f"{wheel.package}=={wheel.version}"]
        if "ziglang" in wheel.package:
            # The same file on every machine, whatever its processor.
            command += ["--platform", "manylinux_2_12_x86_64"]
        subprocess.run(command, check=True)
        found = sorted(folder.glob("*.whl"))
    if sha256_file(found[0]) != wheel.sha256:
        sys.exit(f"{found[0]}: expected sha256 {wheel.sha256}, found {sha256_file(found[0])}. Delete it.")
    return found[0]


def _members(path: Path, wheel: Wheel) -> Iterator[tuple[str, bytes]]:
    include, exclude = re.compile(wheel.include), re.compile(wheel.exclude)
    with zipfile.ZipFile(path) as archive:
        for member in sorted(archive.infolist(), key=lambda m: m.filename):
            name = member.filename
            safe = ".." not in name and not name.startswith("/") and member.file_size <= MAX_FILE_BYTES
            if safe and include.match(name) and not exclude.match(name):
                yield name, archive.read(member)


def _clean(data: bytes) -> str | None:
    """Return the text with Unix line ends; None for what some reader would see otherwise, or commbert would drop."""
    try:
        text = data.decode().replace("\r\n", "\n")
    except UnicodeDecodeError:
        return None
    lines = lines_of(text)
    return None if _ODD.search(text) or not lines or max(map(len, lines)) > MAX_LINE_CHARS else text


def _chosen(base: Mapping[str, str], n_lines: int) -> Iterator[tuple[str, str]]:
    """Yield files until there are ``n_lines`` lines: a subset of the base, or the base and renamed copies of it."""
    rename = None
    copy = n = 0
    while n < n_lines:
        if copy == 1:
            rename = Renaming(base)
        for name, text in base.items():
            yield f"copy_{copy:02d}/{name}", rename.renamed(text, copy) if rename else text
            n += len(lines_of(text))
            if n >= n_lines:
                return
        copy += 1


class Renaming:
    """New names for the identifiers of few files; a function of the base text and the number of the copy."""

    def __init__(self, base: Mapping[str, str]) -> None:
        n_files = Counter(word for text in base.values() for word in set(_IDENTIFIER.findall(text)))
        self._rare = {w for w, n in n_files.items() if n < RARE_FILES and w.lower() not in KEYWORDS}
        by_length: defaultdict[int, set[str]] = defaultdict(set)
        for word in self._rare:
            if part := _COMPONENT.search(word):
                by_length[len(part[0])].add(part[0].lower())
        self._by_length = {n: sorted(parts) for n, parts in by_length.items()}
        self._copy, self._partner, self._new = -1, {}, {}

    def renamed(self, text: str, copy: int) -> str:
        """Return the text of a copy."""
        if copy != self._copy:
            self._copy, self._partner, self._new = copy, {}, {}
            for n, parts in sorted(self._by_length.items()):
                others = list(parts)
                random.Random(f"{copy} {n}").shuffle(others)
                self._partner.update(zip(parts, others, strict=True))
        return _IDENTIFIER.sub(lambda m: self._name(m[0]), text)

    def _name(self, word: str) -> str:
        """Return the new name: its first part replaced by one of as many letters, what follows kept."""
        if word not in self._rare:
            return word
        if word not in self._new:
            self._new[word] = _COMPONENT.sub(lambda m: self._part(m[0]), word, count=1)
        return self._new[word]

    def _part(self, old: str) -> str:
        """Return another known part, or, for half of them, the head of the old one and the tail of the other."""
        lower = old.lower()
        new = self._partner[lower]
        if random.Random(f"{self._copy} {lower}").random() < 0.5:
            half = (len(lower) + 1) // 2
            new = lower[:half] + new[half:]
        if old.isupper() and len(old) > 1:
            return new.upper()
        return new.capitalize() if old[0].isupper() else new


if __name__ == "__main__":
    main()
