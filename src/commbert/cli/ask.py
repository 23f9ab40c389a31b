"""Asking a model: ``fill-mask``, ``similarity``, ``neighbours``, ``predict``."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commbert.cli.asking import (
    DEFAULT_BASE,
    DEFAULT_MODEL,
    Answers,
    AsJson,
    Base,
    Column,
    Device,
    Model,
    TextFile,
    Texts,
    Truncate,
    load,
    progress,
    stream_texts,
    use_threads,
    watched,
)
from commbert.cli.options import app
from commbert.errors import DataError

if TYPE_CHECKING:
    from commbert.inference.models import AskedModel
    from commbert.inference.texts import AskedPair

TopK = Annotated[int, typer.Option("--top-k", "-k", min=1, max=10_000, help="How many.")]
_ROWS = 500
"""Pairs that are compared, and shown in one table, at a time."""


@app.command("fill-mask")
def fill_mask(
    texts: Texts = None,
    file: TextFile = None,
    column: Column = None,
    top_k: TopK = 10,
    truncate: Truncate = False,
    model: Model = DEFAULT_MODEL,
    device: Device = "auto",
    json: AsJson = False,
) -> None:
    """Say what fits each [MASK] of a text.

    A text may have any number of them; each is predicted by its own distribution, all others still masked.
    """
    asked = stream_texts(texts, file, column)
    loaded = load(model, device)
    from commbert.cli.answers import filled_table
    from commbert.inference.filling import fill_mask as fill

    answers = Answers(as_json=json)
    with watched(asked, file, "fill-mask", beside_answers=True) as passing:
        for filled in fill(loaded, passing, top_k=top_k, truncate=truncate):
            answers.give(filled.as_dict(), partial(filled_table, filled))


@app.command()
def similarity(
    texts: Annotated[list[str] | None, typer.Argument(help="Two words or texts; none: pairs come from --file.")] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", "-f", help="Pairs, one a line: TAB- or comma-separated, no header; - is standard input."
        ),
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Show the base model's cosine beside it.")] = False,
    base: Base = DEFAULT_BASE,
    truncate: Truncate = False,
    model: Model = DEFAULT_MODEL,
    device: Device = "auto",
    json: AsJson = False,
) -> None:
    """Say how alike two words or texts are: the cosine of their vectors, pooled as the model's folder says."""
    pairs = _pairs(texts, file)
    models = _models(model, base, device, compare)
    from commbert.cli.answers import similarity_table
    from commbert.inference.texts import in_lists
    from commbert.inference.vectors import similarity as similar

    answers = Answers(as_json=json)
    with progress("similarity", beside_answers=True) as advance:
        for some in in_lists(pairs, _ROWS):
            of_each = [list(similar(m, some, truncate=truncate)) for m in models.values()]
            rows = [(found[0], [one.cosine for one in found]) for found in zip(*of_each, strict=True)]
            if json:
                for first, cosines in rows:
                    told = dict(zip(("cosine", "base_cosine"), cosines, strict=False))
                    answers.give({"a": first.a, "b": first.b, "where": first.where, **told}, str)
            else:
                table = [(first.a, first.b, cosines) for first, cosines in rows]
                answers.give({}, partial(similarity_table, table, list(models)))
            advance(len(some))


def _pairs(texts: list[str] | None, file: Path | None) -> "Iterator[AskedPair]":
    from commbert.inference.texts import AskedPair, pairs_of_lines, read_pairs

    if texts and file is None and len(texts) != 2:
        raise DataError(f"expected two texts to compare, found {len(texts)}. Put each in quotes.")
    asked = stream_texts(texts, file)
    if texts:
        return iter([AskedPair(*asked)])
    return read_pairs(file) if file is not None and str(file) != "-" else pairs_of_lines(asked)


def _models(model: Path, base: Path, device: str, compare: bool) -> "dict[str, AskedModel]":
    """Return the model and, where it is asked for, the base model, by the names that tables show."""
    return {"cosine": load(model, device)} | ({"base": load(base, device)} if compare else {})


@app.command()
def neighbours(
    words: Annotated[
        list[str] | None, typer.Argument(help="Words; none: they come from --file or standard input.")
    ] = None,
    file: TextFile = None,
    top_k: TopK = 20,
    among: Annotated[
        Path | None,
        typer.Option(
            "--words",
            help="Look among these: a table tokenizer/words, or a text file with one word per line. If not given: the "
            "words that the run exported, else results/tokenizer/words.parquet.",
        ),
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Show the base model's neighbours beside them.")] = False,
    base: Base = DEFAULT_BASE,
    truncate: Truncate = False,
    model: Model = DEFAULT_MODEL,
    device: Device = "auto",
    json: AsJson = False,
) -> None:
    """Name the words that are nearest to a word, by the cosine of their vectors, exactly."""
    asked = list(stream_texts(words, file))
    loaded = [load(model, device)] + ([load(base, device)] if compare else [])
    from commbert.cli.answers import neighbours_table
    from commbert.inference.neighbours import space_of, word_space

    answers = Answers(as_json=json)
    with progress("vectors of words") as advance:
        spaces = [space_of(loaded[0], among, on_words=advance)]
    for one in loaded[1:]:
        with progress("vectors of words, base") as advance:
            spaces.append(word_space(one, spaces[0].words, on_words=advance))
    for at in range(0, len(asked), 256):
        some = asked[at : at + 256]
        of_each = [space.nearest(some, top_k, truncate=truncate) for space in spaces]
        for text, lists in zip(some, zip(*of_each, strict=True), strict=True):
            found = [[vars(one) for one in one_list] for one_list in lists]
            value = {"word": text.text, "where": text.where, "neighbours": found[0]}
            answers.give(
                value | ({"base_neighbours": found[1]} if compare else {}),
                partial(neighbours_table, text.text, lists, ["model", "base"][: len(lists)]),
            )


@app.command()
def predict(
    texts: Texts = None,
    file: TextFile = None,
    column: Column = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", "-k", min=1, help="Show the likeliest classes only; all if not given.")
    ] = None,
    truncate: Truncate = False,
    model: Model = DEFAULT_MODEL,
    device: Device = "auto",
    json: AsJson = False,
) -> None:
    """Say which class a text has, with the probability of each; or its score, where the model was taught scores."""
    asked = stream_texts(texts, file, column)
    use_threads()
    from commbert.cli.answers import prediction_table
    from commbert.inference.classifying import load_classifier
    from commbert.inference.classifying import predict as predicted

    classifier = load_classifier(model, device=device)
    answers = Answers(as_json=json)
    is_regression = classifier.problem == "regression"
    with watched(asked, file, "predict", beside_answers=True) as passing:
        for one in predicted(classifier, passing, top_k=top_k, truncate=truncate):
            answers.give(one.as_dict(), partial(prediction_table, one, is_regression=is_regression))
