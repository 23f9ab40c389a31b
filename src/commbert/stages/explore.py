"""explore: a run's model and its base to a page of neighbours, exported vectors and a map of words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from commbert.artifacts import sha256_file, write_json, write_text
from commbert.corpus.areas import areas_of_words, typical
from commbert.errors import DataError, ModelError
from commbert.evaluation.geometry import neighbours
from commbert.evaluation.layout import LEAST_WORDS, lay_out
from commbert.evaluation.words import read_evaluated_words, telling_words
from commbert.nn.devices import choose_device
from commbert.nn.model import load_bert, special_ids, text_vectors
from commbert.provenance import commit, digest, digest_of_files, environment
from commbert.reporting.exploring import ExploredWords, Nearest, neighbours_page, packed, shared_share, unpacked
from commbert.reporting.maps import map_figure
from commbert.reporting.vectors import NamedVectors, VectorFiles, write_vectors
from commbert.settings.explore import ExploreSettings
from commbert.tokenization.encoding import encode_words, load_tokenizer

_AREAS = 8
"""As many as the map has marks."""
_RECALLED = 10
_WEIGHTS = "model.safetensors"
_CHOICES = (10, 20, 30, 50)

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class ExploredModel:
    """A model folder with its own tokenizer."""

    folder: Path
    pooling: str
    """``mean`` or ``cls``."""


@dataclass(frozen=True)
class ExploreInputs:
    """What is read of the corpus; words are numbered alike in all of it."""

    words: Path
    """Table tokenizer/words."""
    corpus_words: Path
    """Table corpus/words."""
    files: Path
    """Table corpus/files."""
    shards: Path
    """The number of files of each shard."""
    lexed: Mapping[str, Path]
    """Folder of the stage ``lex`` of each shard, by its name."""


@dataclass(frozen=True)
class ExploreOutputs:
    """What is written."""

    vectors: VectorFiles
    page: Path
    map: Path
    """Positions of words (JSON)."""
    figure: Path
    """The map (SVG)."""
    summary: Path
    """Figures (JSON)."""


def run(
    settings: ExploreSettings,
    name: str,
    *,
    base: ExploredModel,
    model: ExploredModel,
    base_name: str = "base model",
    telling: Sequence[str],
    device: str,
    data: ExploreInputs,
    out: ExploreOutputs,
) -> dict[str, Any]:
    """Show the words of a run.

    Args:
        settings: The section ``explore``.
        name: Name of the run.
        base: What the run started from.
        model: What it became.
        base_name: What ``base`` is called: base model, untrained model, run NAME.
        telling: Words to show without asking (``evaluation.telling_words``).
        device: As in ``runtime.device``.
        data: The tables.
        out: The files.

    Raises:
        DataError: If the code has fewer than 5 words that are no keywords.
        ModelError: If a model gives vectors that are not finite.
    """
    words = _chosen(settings, telling, data)
    models = {"base": base, "run": model}
    vectors = {key: _vectors(m, words.word, device) for key, m in models.items()}
    nearest = {key: Nearest(*neighbours(torch.from_numpy(v), settings.neighbours)) for key, v in vectors.items()}
    inputs = _inputs(models, data)
    n_not_plain = write_vectors(
        NamedVectors(words.ids, words.word, words.n_lines, [words.areas[a] for a in words.area], vectors["run"]),
        out.vectors,
        provenance={"settings": digest(settings.as_json()), "inputs": inputs},
    )
    facts = {
        "n_left_out": words.n_left_out,
        "n_not_plain": n_not_plain,
        "pooling": {key: m.pooling for key, m in models.items()},
        "models": {key: sha256_file(m.folder / _WEIGHTS) for key, m in models.items()},
        "base_name": base_name,
        "commit": commit() or "unknown",
    }
    summary = {
        "run": name,
        "words": len(words.ids),
        "words_left_out": words.n_left_out,
        "words_not_in_word2vec": n_not_plain,
        "dims": vectors["run"].shape[1],
        "models_sha256": facts["models"],
        "page": _write_page(name, words, nearest, facts, out.page),
        "map": _write_map(settings, (base_name, name), words, vectors, out),
        "settings": settings.model_dump(mode="json"),
        "inputs": inputs,
        "environment": environment(),
    }
    write_json(out.summary, summary)
    return summary


@dataclass(frozen=True)
class _Words(ExploredWords):
    """The words of a page with what the page does not show."""

    ids: Ints
    typical: NDArray[np.float64]
    """[n] how much the word tells of its area."""
    n_left_out: int
    """Words of the code that are no keywords, and not among them."""


def _chosen(settings: ExploreSettings, telling: Sequence[str], data: ExploreInputs) -> _Words:
    every = read_evaluated_words(data.words)
    ids = every.candidates[: settings.words]
    if len(ids) < LEAST_WORDS:
        raise DataError(
            f"{data.words}: expected at least {LEAST_WORDS} words of the code that are no keywords, found {len(ids)}. "
            "Widen corpus.sources[].include."
        )
    areas, counts = areas_of_words(
        ids, files=data.files, shards=data.shards, folders=data.lexed, corpus_words=data.corpus_words, at_most=_AREAS
    )
    text = [every.text[i] for i in ids]
    place = {word: row for row, word in enumerate(text)}
    shown = [place[w] for w in telling_words(every, telling) if w in place]
    n_lines = every.n_lines[ids].astype(np.int64)
    left_out = len(every.candidates) - len(ids)
    return _Words(text, n_lines, areas, counts.argmax(axis=1), shown, ids, typical(counts), left_out)


def _vectors(model: ExploredModel, words: Sequence[str], device: str) -> NDArray[np.float32]:
    """Return [n, h] the unit vector of each word on its own."""
    on = choose_device(device)
    bert, tokenizer = load_bert(model.folder).to(on), load_tokenizer(model.folder)
    sequences = encode_words(tokenizer, words)
    found = text_vectors(bert, sequences, special_ids(model.folder), pooling=model.pooling, device=on).numpy()
    if not np.isfinite(found).all():
        raise ModelError(f"{model.folder}: expected finite vectors of words, found NaN or infinity. Train it again.")
    return np.asarray(found)


def _inputs(models: Mapping[str, ExploredModel], data: ExploreInputs) -> str:
    weights = [m.folder / name for m in models.values() for name in (_WEIGHTS, "tokenizer.json")]
    return digest_of_files([*weights, data.words, data.corpus_words, data.files, data.shards])


def _write_page(
    name: str, words: _Words, nearest: Mapping[str, Nearest], facts: Mapping[str, Any], path: Path
) -> dict[str, Any]:
    """Write the page; return what of the exact lists it holds, and how much the models share."""
    k = nearest["run"].index.shape[1]
    asked = min(_RECALLED, k)
    # Measured on the lists as they stand in the page.
    lists = {key: packed(found) for key, found in nearest.items()}
    told: dict[str, Any] = {
        "neighbours": k,
        "recall_k": asked,
        "recall": {
            key: shared_share(unpacked(lists[key], k).index, found.index, asked) for key, found in nearest.items()
        },
        "shared": shared_share(nearest["base"].index, nearest["run"].index, asked),
    }
    choices = [n for n in _CHOICES if n < k] + [k]
    page = neighbours_page(name, words, nearest, lists, facts={**facts, **told, "choices": choices})
    write_text(path, page)
    return {**told, "bytes": path.stat().st_size}


def _write_map(
    settings: ExploreSettings,
    names: tuple[str, str],
    words: _Words,
    vectors: Mapping[str, NDArray[np.float32]],
    out: ExploreOutputs,
) -> dict[str, Any]:
    """Write positions and picture; return what the positions are worth."""
    drawn = list(dict.fromkeys([*words.telling, *range(len(words.word))]))[: settings.map_words]
    # In this order the picture names them.
    rows = np.array(sorted(drawn, key=lambda row: (row not in words.telling, -words.typical[row])), np.int64)
    base, of_run = lay_out(vectors["base"][rows], vectors["run"][rows], seed=settings.seed)
    placed = [
        {
            "word": words.word[row],
            "n_lines": int(words.n_lines[row]),
            "area": int(words.area[row]),
            "base": [round(float(x), 3) for x in base.positions[i]],
            "run": [round(float(x), 3) for x in of_run.positions[i]],
        }
        for i, row in enumerate(rows)
    ]
    told = {"trustworthiness": {"base": base.trustworthiness, "run": of_run.trustworthiness}, "seed": settings.seed}
    write_json(out.map, {**told, "base_name": names[0], "run": names[1], "areas": list(words.areas), "words": placed})
    write_text(out.figure, map_figure(placed, words.areas, run=names[1], base=names[0]))
    return {**told, "words": len(placed)}
