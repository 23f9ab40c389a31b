"""Vectors of texts, and searching by them: ``encode`` and ``search``."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from commbert.cli.asking import (
    DEFAULT_MODEL,
    Answers,
    AsJson,
    Column,
    Device,
    Model,
    TextFile,
    Texts,
    Truncate,
    load,
    progress,
    shown,
    stream_texts,
    watched,
)
from commbert.cli.options import app
from commbert.errors import DataError

FUNCTIONS = Path("results/corpus/functions.parquet")


@app.command()
def encode(
    texts: Texts = None,
    file: TextFile = None,
    column: Column = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="x.parquet (text, where, vector) or x.npy (vectors alone, in the same order)."
        ),
    ] = None,
    normalize: Annotated[bool, typer.Option("--normalize/--no-normalize", help="Scale vectors to length 1.")] = True,
    truncate: Truncate = False,
    model: Model = DEFAULT_MODEL,
    device: Device = "auto",
    json: AsJson = False,
) -> None:
    """Turn texts into vectors: one per line of a file, the functions of a table of functions, or a table's column.

    With --json and without --out, the vectors are printed.
    """
    from commbert.inference.vectors import encode_texts, save_vectors

    if out is None and not json:
        raise DataError(
            "expected an output, found none. Name a .parquet or .npy file with --out, or print with --json."
        )
    asked = stream_texts(texts, file, column)
    loaded = load(model, device)
    answers = Answers(as_json=json)
    with watched(asked, file, "encode", beside_answers=out is None) as passing:
        if out is None:
            for some in encode_texts(loaded, passing, normalize=normalize, truncate=truncate):
                for text, vector in zip(some.texts, some.vectors, strict=True):
                    answers.give({"text": text.text, "where": text.where, "vector": vector.tolist()}, str)
            return
        n = save_vectors(loaded, passing, out, normalize=normalize, truncate=truncate)
    size = loaded.bert.config.hidden_size
    line = f"{out}: {n:,} vector{'' if n == 1 else 's'} of {size} numbers"
    answers.give({"out": str(out), "texts": n, "dims": size, "normalized": normalize}, lambda: shown(line, len(line)))


@app.command()
def search(
    queries: Annotated[
        list[str] | None, typer.Argument(help="What is looked for; none: --file or standard input.")
    ] = None,
    file: TextFile = None,
    among: Annotated[
        list[Path] | None,
        typer.Option(
            "--in",
            help="Where to search, any number: a text file (a passage per line), a table of functions, or vectors that "
            "commbert encode saved (instant). If not given: results/corpus/functions.parquet.",
        ),
    ] = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, max=10_000, help="Hits per query.")] = 10,
    truncate: Truncate = False,
    model: Model = DEFAULT_MODEL,
    device: Device = "auto",
    json: AsJson = False,
) -> None:
    """Find the passages whose meaning is nearest to a query: exact search by the cosine of vectors.

    Of passages longer than the model's positions the beginning is searched.
    """
    places = among or [FUNCTIONS]
    for place in places:
        if not place.is_file():
            raise DataError(f"{place}: expected a file to search, found none. Name one with --in.")
    asked = list(stream_texts(queries, file))
    loaded = load(model, device)
    from commbert.cli.answers import hits_table
    from commbert.inference.searching import passages
    from commbert.inference.searching import search as search_among

    answers = Answers(as_json=json)
    with progress("search") as advance:
        every = (some for place in places for some in passages(loaded, place))
        found = search_among(
            loaded, asked, every, top_k=top_k, truncate=truncate, on_texts=lambda texts: advance(len(texts))
        )
    for query, hits in zip(asked, found, strict=True):
        value = {"query": query.text, "where": query.where, "hits": [vars(hit) for hit in hits]}
        answers.give(value, partial(hits_table, query.text, hits))
