"""evaluate: a model, a baseline's vectors or the frequency rule, on the held-out tables, to figures and scores."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from commbert import tables
from commbert.artifacts import sha256_file, write_json
from commbert.errors import DataError
from commbert.evaluation import geometry, meaning
from commbert.evaluation import pairs as ladder
from commbert.evaluation.bootstrap import auc_resamples, estimate, json_ready
from commbert.evaluation.controls import HARD_RUNGS, Controls, controls, problems
from commbert.evaluation.functions import same_function_partners
from commbert.evaluation.retrieval import Partners, held_out_partners, retrieve
from commbert.evaluation.scores import (
    CORRELATION,
    MEANS,
    RATIOS,
    Column,
    Scores,
    figure,
    pair_figures,
    write_scores,
)
from commbert.evaluation.words import (
    ByFrequency,
    telling_words,
)
from commbert.provenance import digest, digest_of_files, environment
from commbert.settings.evaluation import EvaluationSettings
from commbert.stages.subjects import Case, EvaluationPaths, ModelSubject, Subject, VectorsSubject, open_case
from commbert.stages.textscores import score_masked, score_meaning, score_sentences
from commbert.tokenization.encoding import encode_words

_HUB_QUERIES = 5000
"""Words that name their neighbours, for the hubness."""

Ints = NDArray[np.int64]


def run(
    settings: EvaluationSettings,
    *,
    subject: Subject,
    data: EvaluationPaths,
    split: str,
    out: Path,
    scores_out: Path,
) -> dict[str, Any]:
    """Evaluate on one split.

    Args:
        settings: The section ``evaluation``.
        subject: What is evaluated.
        data: The tables, of that split.
        split: ``test`` for what is reported; ``validation`` for choosing settings.
        out: Becomes evaluation.json.
        scores_out: Becomes the table evaluation/scores.

    Raises:
        DataError: If a hard rung gives itself away.
    """
    case = open_case(settings, subject, data, split)
    scores: Scores = {}
    found_controls, strata = _score_pairs(scores, case)
    mlm_reason, unigram = score_masked(scores, case)
    sentences = score_sentences(scores, case, mlm_reason)
    result: dict[str, Any] = {
        "controls": {rung: vars(of_rung) for rung, of_rung in found_controls.items()},
        "strata": strata,
        "retrieval": _score_retrieval(scores, case),
        "geometry": _geometry(case),
        "mlm_reason": mlm_reason,
        "unigram": unigram,
        "sentences": sentences,
        "opposites": _opposites(case),
        **score_meaning(scores, case),
        "neighbours": _neighbours(case),
    }
    names = [*pair_figures(ladder.RUNGS), *MEANS, *RATIOS, CORRELATION]
    figures = {n: figure(scores, n, n_resamples=settings.bootstrap, seed=settings.seed) for n in names}
    inputs = _inputs(subject, data)
    result |= {
        "figures": {n: f.as_dict() if f else None for n, f in figures.items()},
        "subject": type(subject).__name__.removesuffix("Subject").lower(),
        "pooling": subject.pooling if isinstance(subject, ModelSubject) else None,
        "split": split,
        "settings": settings.model_dump(mode="json"),
        "model_sha256": sha256_file(subject.folder / "model.safetensors")
        if isinstance(subject, ModelSubject)
        else None,
        "inputs": inputs,
        "environment": environment(),
    }
    write_scores(scores_out, scores, {"inputs": inputs})
    write_json(out, result)
    return result


def _inputs(subject: Subject, data: EvaluationPaths) -> str:
    read = [tables.content_digest(p) for p in vars(data).values() if p.suffix == ".parquet"]
    files = [p for p in vars(data).values() if p.suffix in (".csv", ".txt", ".json")]
    if isinstance(subject, ModelSubject):
        files += [subject.folder / "model.safetensors", subject.folder / "tokenizer.json"]
    elif isinstance(subject, VectorsSubject):
        read.append(tables.content_digest(subject.path))
    return digest(digest_of_files([*files, data.windows_tokenizer / "tokenizer.json"]), *read)


def _score_pairs(scores: Scores, case: Case) -> tuple[dict[str, Controls], list[dict[str, Any]]]:
    """Score all rungs; return the controls of each, and the AUC within strata of the hard ones."""
    found_controls: dict[str, Controls] = {}
    strata: list[dict[str, Any]] = []
    n_pieces = None
    if case.network is not None:
        sequences = encode_words(case.network.tokenizer, case.words.text)
        n_pieces = np.array([len(s) for s in sequences], np.int64)
    popularity = case.space.popularity(np.unique(case.pairs.anchor))
    vectors = None if isinstance(case.space, ByFrequency) else case.space.all_vectors()
    for rung in ladder.RUNGS:
        found = ladder.rung_scores(case.pairs, rung, case.space.score)
        for stratum, rows in (("novel", found.is_novel), ("seen", ~found.is_novel)):
            for side in ("positive", "negative"):
                value = getattr(found, side)[rows]
                column = Column(found.item[rows], found.first[rows], value, np.ones(len(value)))
                scores[f"{rung}_{stratum}:{side}"] = column
        found_controls[rung] = controls(
            found.positive_word,
            found.negative_word,
            popularity=popularity,
            vectors=vectors,
            n_lines=case.words.n_lines,
        )
        if rung in HARD_RUNGS:
            strata += _strata(rung, found, case, n_pieces)
    wrong = problems(found_controls)
    if wrong:
        raise DataError(f"{case.data.pairs}: {'; '.join(wrong)}. Make the pairs again, from more files if it stays so.")
    return found_controls, strata


def _strata(rung: str, found: ladder.RungScores, case: Case, n_pieces: Ints | None) -> list[dict[str, Any]]:
    kinds = {"training lines of the rarer word": ladder.by_frequency(found, case.words.n_lines)}
    if n_pieces is not None:
        kinds["tokens of the longer word"] = ladder.by_pieces(found, n_pieces)
    out: list[dict[str, Any]] = []
    for kind, buckets in kinds.items():
        for bucket, rows in buckets.items():
            n = int(rows.sum())
            row: dict[str, Any] = {"rung": rung, "by": kind, "bucket": bucket, "n": n, "auc": None}
            if n:
                sides = (found.positive[rows], found.negative[rows])
                value = auc_resamples(*sides, np.zeros(n, np.int64), n_resamples=1, seed=0)[0]
                draws = auc_resamples(
                    *sides, found.first[rows], n_resamples=case.settings.bootstrap, seed=case.settings.seed
                )
                row["auc"] = estimate(float(value), draws, n).as_dict()
            out.append(row)
    return out


def _geometry(case: Case) -> dict[str, Any] | None:
    if isinstance(case.space, ByFrequency):
        return None
    candidates = case.words.candidates
    vectors = case.space.vectors_of(candidates)
    there = np.flatnonzero(vectors.norm(dim=1).numpy() > 0.5)
    vectors = vectors[torch.from_numpy(there)]
    place = np.full(len(case.words.text), -1, np.int64)
    place[candidates[there]] = np.arange(len(there))
    a, b = place[case.pairs.anchor], place[case.pairs.positive]
    both = (a >= 0) & (b >= 0)
    found = geometry.geometry(
        vectors, a[both], b[both], n_pairs=case.settings.random_pairs, n_queries=_HUB_QUERIES, seed=case.settings.seed
    )
    return {**found.as_dict(), "collapse": geometry.collapse(found), "words": len(there)}


def _score_retrieval(scores: Scores, case: Case) -> dict[str, Any]:
    """Score the partners of words on held-out lines, and in held-out functions."""
    told: dict[str, Any] = {}
    tasks = {"retrieval": held_out_partners(case.data.line_words, case.in_split, case.words.usable, case.known)}
    tasks["function"] = same_function_partners(
        case.data.functions,
        case.data.line_words,
        case.in_split,
        case.words.usable,
        case.known,
        seed=case.settings.seed,
    )
    candidates = case.words.candidates
    vectors, popular = (space.vectors_of(candidates) for space in (case.space, ByFrequency(case.words)))
    for number, (task, partners) in enumerate(tasks.items()):
        chosen = _queries(partners, case.settings, number)
        told[task] = {"queries": len(chosen), "words_with_partners": len(partners.query)}
        if not len(chosen):
            continue
        ask = (partners, chosen)
        found = retrieve(*ask, vectors, candidates, case.known)
        told[task]["popularity_mrr"] = float(retrieve(*ask, popular, candidates, case.known).reciprocal_rank.mean())
        ones = np.ones(len(chosen))
        columns = {"mrr": found.reciprocal_rank, "map": found.average_precision}
        columns |= {f"r{k}": recall for k, recall in found.recall.items()}
        for name, value in columns.items():
            scores[f"{task}_{name}"] = Column(found.query, found.query, value, ones)
    return told


def _queries(partners: Partners, settings: EvaluationSettings, number: int) -> Ints:
    rng = np.random.default_rng([settings.seed, 5 + number])
    n = min(settings.retrieval_queries, len(partners.query))
    return np.sort(rng.choice(len(partners.query), n, replace=False))


def _opposites(case: Case) -> dict[str, Any] | None:
    if isinstance(case.space, ByFrequency):
        return None
    ids = case.words.candidates
    words, pairs = [case.words.text[i] for i in ids], meaning.read_opposites(case.data.opposites)
    asked = meaning.words_with_opposites(words, pairs)
    nearest = np.full(len(words), -1, np.int64)
    if len(words) > 1:
        nearest[asked] = geometry.neighbours(case.space.vectors_of(ids), 1, queries=asked)[0][:, 0]
    return json_ready(vars(meaning.opposites_rate(words, nearest, pairs)))


def _neighbours(case: Case) -> dict[str, list[list[Any]]]:
    """Return [word, cosine] of the nearest words of the code for each telling word that the code has."""
    if isinstance(case.space, ByFrequency):
        return {}
    words, settings = case.words, case.settings
    candidates = words.candidates
    place = {words.text[i]: row for row, i in enumerate(candidates)}
    asked = telling_words(words, settings.telling_words)
    rows = np.array([place[w] for w in asked], np.int64)
    index, cosine = geometry.neighbours(case.space.vectors_of(candidates), settings.neighbours, queries=rows)
    return {
        word: [[words.text[candidates[i]], round(float(c), 4)] for i, c in zip(index[n], cosine[n], strict=True)]
        for n, word in enumerate(asked)
    }
