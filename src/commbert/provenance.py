"""Where a result comes from: digests of code, settings and inputs; versions; commit. Standard library only."""

import ast
import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, MutableMapping
from functools import cache
from pathlib import Path

from commbert.artifacts import sha256_file
from commbert.errors import SettingsError

_PACKAGE = "commbert"
_LIBRARIES = (
    "torch",
    "transformers",
    "tokenizers",
    "numpy",
    "polars",
    "pyarrow",
    "snakemake",
    "safetensors",
    "wordfreq",
)
_CACHE = "SNAKEMAKE_OUTPUT_CACHE"
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_HASHED_UP_TO_BYTES = 256 * 2**20


def digest(*parts: str | bytes) -> str:
    """Return 16 hexadecimal digits over the parts, each preceded by its length (no two lists run together)."""
    h = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        h.update(len(data).to_bytes(8, "little") + data)
    return h.hexdigest()[:16]


def digest_of_files(paths: Iterable[Path]) -> str:
    """Return a digest over the bytes of the files, in the given order (not over their names)."""
    return digest(*(sha256_file(p) for p in paths))


def code_digest(*modules: str) -> str:
    """Return a digest of modules' code and of all code of this package that they import, without importing it.

    Comments, docstrings and formatting do not count: a rule with this digest in its params runs again when its code
    changes, and does not when only its looks do.
    """
    sources = _closure(modules)
    return digest(*(f"{name}\0{text}" for name, text in sorted(sources.items())))


@cache
def _module_file(module: str) -> Path | None:
    base = Path(__file__).parent.parent.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


@cache
def _parsed(path: Path) -> tuple[str, frozenset[str]]:
    tree = ast.parse(path.read_bytes())
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [n for n in node.body if not _is_text(n)]
    return ast.dump(tree), frozenset(n for n in names if n.split(".")[0] == _PACKAGE)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _closure(modules: Iterable[str]) -> dict[str, str]:
    seen: dict[str, str] = {}
    todo = [*modules]
    while todo:
        name = todo.pop()
        path = _module_file(name)
        if name in seen or path is None:
            continue
        seen[name], imported = _parsed(path)
        for full in imported:
            parts = full.split(".")
            todo += [".".join(parts[: i + 1]) for i in range(len(parts))]
    return seen


def stages_digest() -> str:
    """Return a digest of the code of all stages."""
    folder = Path(__file__).parent / "stages"
    return code_digest(*(f"{_PACKAGE}.stages.{path.stem}" for path in sorted(folder.glob("*.py"))))


def fingerprint_paths(paths: Iterable[Path], *, n_parts: int = 1) -> str:
    """Return a digest that changes when the files' names or bytes do.

    The first 256 MiB are read; of what lies beyond, size and time stand for the bytes.

    Args:
        paths: The files.
        n_parts: The files are one of so many parts: of each, so much less is read.
    """
    parts: list[str] = []
    n_bytes_read = 0
    for path in sorted(paths):
        try:
            status = path.stat()
            n_bytes_read += status.st_size
            within = n_bytes_read <= _HASHED_UP_TO_BYTES // n_parts
            mark = sha256_file(path) if within else f"{status.st_size} {status.st_mtime_ns}"
        except OSError as error:
            mark = f"unreadable {error.errno}"
        parts.append(f"{os.fsencode(path)!r} {mark}")
    return digest(*parts)


def versions() -> dict[str, str]:
    """Return the versions of Python, this package and the libraries that decide results."""
    found = {"python": platform.python_version(), _PACKAGE: importlib.metadata.version(_PACKAGE)}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def commit() -> str | None:
    """Return the commit of the checkout that holds this package, ``-dirty`` if files differ; None outside of git."""
    folder = Path(__file__).parent
    try:
        run = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip() or None


def cache_folder(root: str) -> str:
    """Return the folder within a cache for what this Python and these versions of the libraries make; it is made.

    Args:
        root: The cache, relative to the working folder, or the result of this function, which is returned as it is.

    Raises:
        SettingsError: If nothing can be written there.
    """
    required = importlib.metadata.requires(_PACKAGE) or []
    names = sorted({name[0] for line in required if "extra ==" not in line and (name := _NAME.match(line))})
    software = [platform.python_version(), platform.machine()]
    for library in names:
        try:
            software.append(f"{library} {importlib.metadata.version(library)}")
        except importlib.metadata.PackageNotFoundError:
            software.append(f"{library} not installed")
    path = Path(root).expanduser().absolute()
    own = f"commbert-{digest(*software)}"
    if path.name != own:
        path /= own
    try:
        path.mkdir(parents=True, exist_ok=True)
        why = "" if os.access(path, os.W_OK) else "no right to write"
    except OSError as error:
        why = str(error)
    if why:
        raise SettingsError(
            f"{_CACHE}={root}: expected a folder for a cache that can be written, found: {why}. Name another one, or "
            "unset the variable."
        )
    return str(path)


def uses_cache(environment: MutableMapping[str, str]) -> bool:
    """Return whether an environment names a cache for Snakemake, and let it name our folder in there."""
    root = environment.get(_CACHE)
    if root:
        environment[_CACHE] = cache_folder(root)
    return bool(root)


def environment() -> dict[str, str | dict[str, str] | None]:
    """Return what a result is stored with: versions, platform, commit."""
    return {
        "versions": versions(),
        "platform": platform.platform(),
        "python": sys.version.split()[0],
        "commit": commit(),
    }


def templates_digest() -> str:
    """Return a digest of the report's templates."""
    folder = Path(__file__).parent / "reporting" / "templates"
    return digest(*(f"{p.name}\0{p.read_text(encoding='utf-8')}" for p in sorted(folder.iterdir()) if p.is_file()))
