"""evaluate: a model folder and the held-out tables to evaluation.json and scores.parquet."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from commbert import tables
from commbert.artifacts import sha256_file, write_json
from commbert.corpus.reading import split_of_files
from commbert.errors import DataError
from commbert.evaluation import pairs as pair_task
from commbert.evaluation.retrieval import held_out_partners, retrieve
from commbert.evaluation.scores import MEANS, Column, Scores, figure, write_scores
from commbert.evaluation.unigram import unigram
from commbert.known import read_known
from commbert.nn.devices import choose_device
from commbert.nn.encoder import Bert
from commbert.nn.measures import auc, cosines, mlm_scores
from commbert.nn.model import load_bert, missing_parts, special_ids, text_vectors
from commbert.nn.packing import SpecialIds
from commbert.provenance import digest, digest_of_files, environment
from commbert.rows import count_tokens, read_windows
from commbert.settings.evaluation import EvaluationSettings
from commbert.text.languages import KEYWORDS
from commbert.tokenization.encoding import encode_words, load_tokenizer

_MASK_RATE = 0.15


@dataclass(frozen=True)
class EvaluationPaths:
    """The tables that an evaluation reads; of windows, the lists of their files."""

    files: Path
    line_words: Path
    words: Path
    known: Path
    pairs: Path
    windows: Path
    train_windows: Path
    windows_tokenizer: Path


@dataclass(frozen=True)
class _Words:
    """The words that take part, with their unit vectors: the words of the code, and the English negatives."""

    text: list[str]
    n_lines: np.ndarray
    usable: np.ndarray
    n_code: int
    row_of: np.ndarray
    vectors: torch.Tensor


def run(
    settings: EvaluationSettings,
    *,
    model: Path,
    pooling: str,
    has_trained_head: bool,
    data: EvaluationPaths,
    split: str,
    device: str,
    out: Path,
    scores_out: Path,
) -> dict[str, Any]:
    """Evaluate one model on the test split.

    Args:
        settings: The section ``evaluation``.
        model: A folder with weights and its own tokenizer.
        pooling: ``mean`` or ``cls``.
        has_trained_head: False: the folder's MLM head was never trained, so MLM is not measured.
        data: The tables.
        split: ``test`` for what is reported; ``validation`` for choosing settings. The tables must be of that split.
        device: As in ``runtime.device``.
        out: Becomes evaluation.json.
        scores_out: Becomes the table evaluation/scores.

    Raises:
        DataError: If the test split has no pair.
    """
    where = choose_device(device)
    network = load_bert(model)
    network.to(where)
    specials = special_ids(model)
    known = read_known(data.known)
    pairs = pair_task.read_pairs(data.pairs, known)
    if not len(pairs.anchor):
        raise DataError(f"{data.pairs}: expected held-out pairs, found none. Raise corpus.split.test.")
    words = _encode_all(network, specials, model, data.words, pairs, pooling, where)
    scores: Scores = {}
    controls = _score_pairs(scores, pairs, words)
    geometry = _geometry(words, settings)
    _score_retrieval(scores, settings, data, split, words, known, controls)
    mlm_reason, baseline = _score_mlm(scores, settings, data, network, specials, model, has_trained_head, where)
    names = [*_pair_metrics(), *MEANS, "mlm_loss_per_char"]
    figures = {n: figure(scores, n, n_resamples=settings.bootstrap, seed=settings.seed) for n in names}
    tables_read = [tables.content_digest(p) for p in vars(data).values() if p.is_file()]
    weights = digest_of_files([model / "model.safetensors", data.windows_tokenizer / "tokenizer.json"])
    inputs = digest(weights, *tables_read)
    # A control of nothing is no number.
    told = {name: None if np.isnan(value) else value for name, value in controls.items()}
    result = {
        "figures": {n: f.as_dict() if f else None for n, f in figures.items()},
        "controls": told,
        "geometry": geometry,
        "mlm_reason": mlm_reason,
        "unigram": baseline,
        "neighbours": _neighbours(words, settings),
        "pooling": pooling,
        "split": split,
        "settings": settings.model_dump(mode="json"),
        "model_sha256": sha256_file(model / "model.safetensors"),
        "inputs": inputs,
        "environment": environment(),
    }
    write_scores(scores_out, scores, {"inputs": inputs})
    write_json(out, result)
    return result


def _pair_metrics() -> list[str]:
    return [f"auc_{rung}{suffix}" for rung in pair_task.RUNGS for suffix in ("", "_novel")]


def _encode_all(
    network: Bert,
    specials: SpecialIds,
    model: Path,
    words: Path,
    pairs: pair_task.HeldOutPairs,
    pooling: str,
    device: torch.device,
) -> _Words:
    table = tables.read(words, tables.WORDS, ["word", "n_lines", "in_code"])
    text = table["word"].to_pylist()
    n_lines = table["n_lines"].to_numpy()
    in_code = table["in_code"].to_numpy(zero_copy_only=False)
    n_code = int(in_code.sum())
    needed = np.unique(
        np.concatenate([np.flatnonzero(in_code), *pairs.negative.values(), pairs.anchor, pairs.positive])
    )
    sequences = encode_words(load_tokenizer(model), [text[i] for i in needed])
    vectors = text_vectors(network, sequences, specials, pooling=pooling, device=device)
    row_of = np.full(len(text), -1, np.int64)
    row_of[needed] = np.arange(len(needed))
    usable = np.array([w not in KEYWORDS for w in text], np.bool_)
    return _Words(text, n_lines, usable, n_code, row_of, vectors)


def _score_pairs(scores: Scores, pairs: pair_task.HeldOutPairs, words: _Words) -> dict[str, float]:
    controls: dict[str, float] = {}
    for rung in pair_task.RUNGS:
        found = pair_task.rung_scores(pairs, rung, words.vectors, words.row_of, words.n_lines)
        for suffix, rows in (("", np.ones(len(found.cluster), np.bool_)), ("_novel", found.is_novel)):
            item, cluster = np.flatnonzero(rows), found.cluster[rows]
            for side in ("positive", "negative"):
                value = getattr(found, side)[rows]
                scores[f"auc_{rung}{suffix}:{side}"] = Column(item, cluster, value, np.ones(len(value)))
        controls[f"blind_auc_{rung}"] = auc(found.blind_positive, found.blind_negative)
        controls[f"frequency_auc_{rung}"] = auc(found.frequency_positive, found.frequency_negative)
    return controls


def _geometry(words: _Words, settings: EvaluationSettings) -> dict[str, float]:
    rng = np.random.default_rng([settings.seed, 4])
    a, b = rng.integers(0, words.n_code, (2, settings.random_pairs))
    a, b = a[a != b], b[a != b]
    return {"mean_random_cosine": float(cosines(words.vectors, words.row_of[a], words.row_of[b]).mean())}


def _score_retrieval(
    scores: Scores,
    settings: EvaluationSettings,
    data: EvaluationPaths,
    split: str,
    words: _Words,
    known: np.ndarray,
    controls: dict[str, float],
) -> None:
    in_split = split_of_files(data.files) == tables.SPLITS.index(split)
    partners = held_out_partners(data.line_words, in_split, words.usable, known)
    candidates = np.flatnonzero(words.usable[: words.n_code])
    rng = np.random.default_rng([settings.seed, 5])
    n = min(settings.retrieval_queries, len(partners.query))
    chosen = np.sort(rng.choice(len(partners.query), n, replace=False))
    vectors = words.vectors[words.row_of[candidates]]
    if not n:
        return
    found = retrieve(partners, chosen, vectors, candidates, known)
    # Popularity: everyone gets the same list, most frequent words first.
    popular = torch.from_numpy(words.n_lines[candidates].astype(np.float32) + 1)[:, None]
    controls["popularity_mrr"] = float(retrieve(partners, chosen, popular, candidates, known).reciprocal_rank.mean())
    ones = np.ones(n)
    scores["retrieval_mrr"] = Column(found.query, found.query, found.reciprocal_rank, ones)
    for k, recall in found.recall.items():
        scores[f"retrieval_r{k}"] = Column(found.query, found.query, recall, ones)


def _score_mlm(
    scores: Scores,
    settings: EvaluationSettings,
    data: EvaluationPaths,
    network: Bert,
    specials: SpecialIds,
    model: Path,
    has_trained_head: bool,
    device: torch.device,
) -> tuple[str, dict[str, float] | None]:
    if "mlm_head" in missing_parts(model) or not has_trained_head:
        return "the model has no trained MLM head", None
    if sha256_file(model / "tokenizer.json") != sha256_file(data.windows_tokenizer / "tokenizer.json"):
        return "the windows were cut with another tokenizer", None
    heldout = read_windows(data.windows)
    rng = np.random.default_rng([settings.seed, 6])
    rows = np.sort(rng.choice(len(heldout), min(settings.windows, len(heldout)), replace=False))
    windows = heldout.rows(rows)
    found = mlm_scores(network, windows, specials, seed=settings.seed, rate=_MASK_RATE, device=device)
    tokenizer = load_tokenizer(model)
    n_chars = np.array([len((tokenizer.id_to_token(int(i)) or "").removeprefix("##")) for i in found.label], np.float64)
    item = np.arange(len(found.label))
    for name, value in (("loss", found.loss), ("top1", found.rank < 1), ("top5", found.rank < 5)):
        scores[f"mlm_{name}"] = Column(item, rows[found.window], value.astype(np.float64), n_chars)
    counts = unigram(count_tokens(data.train_windows, network.config.vocab_size))
    loss = -counts.log_probability[found.label]
    return "", {
        "top1": float((counts.rank[found.label] < 1).mean()),
        "top5": float((counts.rank[found.label] < 5).mean()),
        "loss": float(loss.mean()),
        "loss_per_char": float(loss.sum() / n_chars.sum()),
    }


def _neighbours(words: _Words, settings: EvaluationSettings) -> dict[str, list[list[Any]]]:
    """Return [word, cosine] of the nearest words of the code for each telling word that the code has."""
    id_of = {w: i for i, w in enumerate(words.text[: words.n_code])}
    asked = [w for w in settings.telling_words if w in id_of] or _default_telling(words)
    candidates = np.flatnonzero(words.usable[: words.n_code])
    vectors = words.vectors[words.row_of[candidates]]
    found: dict[str, list[list[Any]]] = {}
    for word in asked:
        score = vectors @ words.vectors[words.row_of[id_of[word]]]
        score[torch.from_numpy(candidates == id_of[word])] = -torch.inf
        best = torch.topk(score, min(settings.neighbours, len(candidates) - 1))
        found[word] = [
            [words.text[int(candidates[i])], round(float(s), 4)] for s, i in zip(best.values, best.indices, strict=True)
        ]
    return found


def _default_telling(words: _Words) -> list[str]:
    """Return the twelve most frequent words of training that are made of several parts (``mcs_index``)."""
    fit = [i for i in range(words.n_code) if words.usable[i] and words.n_lines[i] > 0]
    return [words.text[i] for i in fit if "_" in words.text[i].strip("_") and words.text[i][0] != "_"][:12]
