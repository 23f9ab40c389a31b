"""Which words are nearest to a word."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from commbert import tables
from commbert.artifacts import read_json, sha256_file
from commbert.errors import DataError
from commbert.evaluation.geometry import nearest_rows
from commbert.evaluation.words import read_evaluated_words
from commbert.inference.models import AskedModel
from commbert.inference.texts import AskedText, named, read_lines
from commbert.inference.vectors import vectors_of
from commbert.tokenization.encoding import is_lower_case

_WORDS_AT_ONCE = 2048


@dataclass(frozen=True)
class Neighbour:
    """A word near to another."""

    word: str
    cosine: float


@dataclass(frozen=True)
class WordSpace:
    """Words with a model's vectors of them."""

    model: AskedModel
    words: list[str]
    vectors: Float[Tensor, "n h"]
    """Of length 1, on the CPU."""

    def nearest(self, asked: Sequence[str | AskedText], k: int, *, truncate: bool = False) -> list[list[Neighbour]]:
        """Return the k nearest words of each asked one, nearest first, exactly; itself is none of them.

        A word that is not among the words is encoded: any word or text may be asked.

        Raises:
            DataError: If a text is too long.
        """
        lower = is_lower_case(self.model.tokenizer)
        row = {word: i for i, word in enumerate(self.words)}
        texts = [t.text.lower() if lower else t.text for t in named(asked)]
        own = np.array([row.get(text, -1) for text in texts], np.int64)
        vectors = torch.from_numpy(vectors_of(self.model, asked, truncate=truncate))
        index, cosine = nearest_rows(vectors, self.vectors, k, own=own)
        # Where so many are asked that the word itself comes last, its cosine is minus infinity.
        return [
            [Neighbour(self.words[i], c) for i, c in zip(rows, near, strict=True) if np.isfinite(c)]
            for rows, near in zip(index.tolist(), cosine.tolist(), strict=True)
        ]


def word_space(
    model: AskedModel, words: Sequence[str], *, on_words: Callable[[int, int], None] | None = None
) -> WordSpace:
    """Encode words.

    Args:
        model: Any BERT.
        words: Each once.
        on_words: Called with how many more are done, and how many there are.

    Raises:
        DataError: If there is none, or one is too long.
    """
    if not words:
        raise DataError("expected at least one word to look among, found none.")
    pieces = []
    for at in range(0, len(words), _WORDS_AT_ONCE):
        some = words[at : at + _WORDS_AT_ONCE]
        pieces.append(vectors_of(model, some))
        if on_words:
            on_words(len(some), len(words))
    return WordSpace(model, list(words), torch.from_numpy(np.concatenate(pieces)))


def read_words(path: Path) -> list[str]:
    """Return the words to look among, each once.

    Args:
        path: A table tokenizer/words, of which the words of the code are taken that are no keywords; or a text file
            with one word per line.

    Raises:
        DataError: If it is missing, or neither.
    """
    if not path.is_file():
        raise DataError(f"{path}: expected a table of words or a text file, found none. Name one with --words.")
    if path.suffix.lower() == ".parquet":
        every = read_evaluated_words(path)
        return [every.text[i] for i in every.candidates]
    with path.open("rb") as file:
        return list(dict.fromkeys(line.text.strip() for line in read_lines(file, str(path))))


def explored_space(model: AskedModel) -> WordSpace | None:
    """Return the words and vectors that the stage ``explore`` exported, if they are this model's; else None.

    They lie beside the folder (``results/runs/NAME/vectors`` beside ``results/runs/NAME/final``). That they are this
    model's is told by the digest of its weights in ``explore.json``, and that the two were written together by the
    digest of their inputs.
    """
    run = model.folder.resolve().parent
    vectors, summary = run / "vectors" / "vectors.parquet", run / "explore.json"
    if not (vectors.is_file() and summary.is_file()):
        return None
    told = read_json(summary)
    weights = told.get("models_sha256", {}).get("run") if isinstance(told, dict) else None
    if weights != sha256_file(model.folder / "model.safetensors"):
        return None
    if tables.provenance_of(vectors).get("inputs") != told.get("inputs"):
        return None
    table = tables.read(vectors, tables.EXPLORED_VECTORS, ["word", "vector"])
    values, _ = tables.list_values(table["vector"])
    found = torch.from_numpy(values.reshape(table.num_rows, -1).copy())
    return WordSpace(model, table["word"].to_pylist(), found)


def space_of(
    model: AskedModel,
    words: Path | None = None,
    *,
    default: Path = Path("results/tokenizer/words.parquet"),
    on_words: Callable[[int, int], None] | None = None,
) -> WordSpace:
    """Return the space that a word's neighbours are looked for in.

    Args:
        model: Any BERT.
        words: Table or text file; None: the exported words and vectors of the model's run where they fit, else
            ``default``.
        default: The table of the corpus's words.
        on_words: Called with how many more are encoded, and how many there are.
    """
    if words is None and (exported := explored_space(model)) is not None:
        return exported
    return word_space(model, read_words(words or default), on_words=on_words)
