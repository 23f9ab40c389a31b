"""Vectors of texts: how alike two are, and files of them."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from commbert import tables
from commbert.artifacts import atomic_file
from commbert.errors import DataError, ModelError
from commbert.inference.models import AskedModel
from commbert.inference.texts import AskedPair, AskedText, in_chunks, in_lists, named, named_text
from commbert.nn.model import text_vectors

Vectors = NDArray[np.float32]
SUFFIXES = (".parquet", ".npy")
_PAIRS_AT_ONCE = 512
TEXT_VECTORS = "inference/text_vectors"


def text_vectors_table(size: int) -> tables.Table:
    """Return the table of texts with vectors of ``size`` numbers.

    Rows in the order of the texts. where: file and line, or file, lines and name of a function.
    """
    vector = pa.list_(pa.field("item", pa.float32(), nullable=False), size)
    columns = {"text": pa.string(), "where": pa.string(), "vector": vector}
    return tables.Table(TEXT_VECTORS, 1, pa.schema([pa.field(n, kind, nullable=False) for n, kind in columns.items()]))


@dataclass(frozen=True)
class EncodedTexts:
    """Some texts with their vectors."""

    texts: list[AskedText]
    vectors: Vectors
    """[n, h] in the order of the texts."""


@dataclass(frozen=True)
class Similarity:
    """How alike two texts are."""

    a: str
    b: str
    where: str
    cosine: float


def vectors_of(
    model: AskedModel, texts: Sequence[str | AskedText], *, normalize: bool = True, truncate: bool = False
) -> Vectors:
    """Return [n, h] float32: the vector of each text, pooled as the model folder says.

    The convention is that of sentence-transformers: the mean over all tokens, [CLS] and [SEP] with them (or the state
    of [CLS] alone). It differs in one point: ``[MASK]`` and the like in a text are characters here, no tokens.

    Args:
        model: Any BERT.
        texts: What is encoded, all at once.
        normalize: Scale vectors to length 1, so that a product of two is their cosine.
        truncate: Keep the beginning of a text that is too long.

    Raises:
        DataError: If a text is too long.
        ModelError: If the model gives numbers that are not finite.
    """
    asked = list(named(texts))
    ids = model.token_ids(asked, truncate=truncate)
    found: Vectors = text_vectors(
        model.bert, ids, model.specials, pooling=model.pooling, device=model.device, normalize=normalize
    ).numpy()
    if not np.isfinite(found).all():
        raise ModelError(f"{model.folder}: expected finite vectors, found NaN or infinity. Train it again.")
    return found


def encode_texts(
    model: AskedModel, texts: Iterable[str | AskedText], *, normalize: bool = True, truncate: bool = False
) -> Iterator[EncodedTexts]:
    """Yield texts with their vectors, about a thousand at a time; see ``vectors_of``."""
    for some in in_chunks(named(texts)):
        yield EncodedTexts(some, vectors_of(model, some, normalize=normalize, truncate=truncate))


def similarity(
    model: AskedModel, pairs: Iterable[tuple[str, str] | AskedPair], *, truncate: bool = False
) -> Iterator[Similarity]:
    """Yield the cosine of the vectors of each pair, -1 to 1, in the order of the pairs; see ``vectors_of``."""
    for some in in_lists(_named_pairs(pairs), _PAIRS_AT_ONCE):
        texts = list(dict.fromkeys(t.text for pair in some for t in (pair.a, pair.b)))
        where = {t.text: t for pair in reversed(some) for t in (pair.b, pair.a)}
        vectors = vectors_of(model, [where[text] for text in texts], truncate=truncate).astype(np.float64)
        row = {text: i for i, text in enumerate(texts)}
        for pair in some:
            cosine = float(vectors[row[pair.a.text]] @ vectors[row[pair.b.text]])
            # Rounding may take equal texts past 1.
            yield Similarity(pair.a.text, pair.b.text, pair.a.where, max(-1.0, min(1.0, cosine)))


def _named_pairs(pairs: Iterable[tuple[str, str] | AskedPair]) -> Iterator[AskedPair]:
    for number, pair in enumerate(pairs, start=1):
        a, b = (pair.a, pair.b) if isinstance(pair, AskedPair) else (AskedText(t, f"pair {number}") for t in pair)
        yield AskedPair(named_text(a), named_text(b))


def save_vectors(
    model: AskedModel,
    texts: Iterable[str | AskedText],
    out: Path,
    *,
    normalize: bool = True,
    truncate: bool = False,
    on_texts: Callable[[Sequence[AskedText]], None] | None = None,
) -> int:
    """Write the vectors of texts and return how many; the file appears whole or not at all, memory stays bounded.

    Args:
        model: Any BERT.
        texts: May be of any number.
        out: ``.parquet``: text, where and vector (a fixed-size list of float32), which ``search`` reads again;
            ``.npy``: a float32 array [n, h] alone, rows in the order of the texts.
        normalize: Scale vectors to length 1.
        truncate: Keep the beginning of a text that is too long.
        on_texts: Called with the texts that were done.

    Raises:
        DataError: If ``out`` ends otherwise, or a text is too long.
        ArtifactError: If the disk is full.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise DataError(f"{out}: expected an output that ends in {' or '.join(SUFFIXES)}. Name it so.")
    writing = _parquet if out.suffix.lower() == ".parquet" else _npy
    n = 0
    with writing(out, model, normalize) as add:
        for some in encode_texts(model, texts, normalize=normalize, truncate=truncate):
            add(some)
            n += len(some.texts)
            if on_texts:
                on_texts(some.texts)
    return n


def provenance(model: AskedModel, *, normalize: bool) -> dict[str, str]:
    """Return what a file of vectors says of itself."""
    return {"model": model.digest, "pooling": model.pooling, "normalized": str(normalize).lower()}


@contextmanager
def _parquet(out: Path, model: AskedModel, normalize: bool) -> Iterator[Callable[[EncodedTexts], None]]:
    table = text_vectors_table(model.bert.config.hidden_size)
    kind = table.schema.field("vector").type
    with tables.writing(out, table, provenance=provenance(model, normalize=normalize)) as writer:

        def add(some: EncodedTexts) -> None:
            vector = pa.FixedSizeListArray.from_arrays(pa.array(some.vectors.ravel()), type=kind)
            texts = {"text": [t.text for t in some.texts], "where": [t.where for t in some.texts]}
            writer.add({**texts, "vector": vector})

        yield add


@contextmanager
def _npy(out: Path, model: AskedModel, normalize: bool) -> Iterator[Callable[[EncodedTexts], None]]:  # noqa: ARG001
    n = 0
    with atomic_file(out) as tmp, tmp.open("w+b") as file:

        def header() -> None:
            # NumPy leaves room in a header for the first axis to grow (GROWTH_AXIS_MAX_DIGITS).
            shape = {"shape": (n, model.bert.config.hidden_size), "fortran_order": False, "descr": "<f4"}
            np.lib.format.write_array_header_1_0(file, shape)

        def add(some: EncodedTexts) -> None:
            nonlocal n
            file.write(np.ascontiguousarray(some.vectors, "<f4").tobytes())
            n += len(some.texts)

        header()
        begin = file.tell()
        yield add
        file.seek(0)
        header()
        assert file.tell() == begin, "NumPy's header has grown"
        file.flush()
        os.fsync(file.fileno())


def read_vectors(path: Path, model: AskedModel) -> Iterator[EncodedTexts]:
    """Yield the rows of a Parquet file that ``save_vectors`` wrote with this model: row group by row group, normalised.

    Raises:
        DataError: If it is damaged, or of another model: vectors of two models cannot be compared.
    """
    made_by = tables.provenance_of(path)
    expected: dict[str, Any] = {"model": model.digest, "pooling": model.pooling}
    for name, value in expected.items():
        if made_by.get(name) != value:
            raise DataError(
                f"{path}: expected vectors of the model {model.folder} ({name} {value}), found those of "
                f"{name} {made_by.get(name)}. Make them with this model: commbert encode."
            )
    table = text_vectors_table(model.bert.config.hidden_size)
    for group in tables.read_groups(path, table, table.schema.names):
        vectors = np.concatenate(
            [chunk.flatten().to_numpy() for chunk in group["vector"].chunks] or [np.empty(0, "f4")]
        )
        vectors = vectors.reshape(group.num_rows, -1)
        if made_by.get("normalized") != "true":
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        texts = [AskedText(t, w) for t, w in zip(*(group[c].to_pylist() for c in ("text", "where")), strict=True)]
        yield EncodedTexts(texts, vectors)
