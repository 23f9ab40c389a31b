"""evaluate: a model, a baseline's vectors or the frequency rule, on the held-out tables, to figures and scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from commbert import tables
from commbert.artifacts import sha256_file, write_json
from commbert.baselines.vectors import read_vectors
from commbert.corpus.reading import split_of_files
from commbert.errors import DataError, ModelError
from commbert.evaluation import general, geometry, meaning
from commbert.evaluation import pairs as ladder
from commbert.evaluation.bootstrap import auc_resamples, estimate, json_ready
from commbert.evaluation.controls import HARD_RUNGS, Controls, controls, problems
from commbert.evaluation.functions import brief_ranks, read_function_texts, same_function_partners
from commbert.evaluation.masked import masked_scores, unigram_figures
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
    Space,
    Words,
    read_evaluated_words,
    space_of_vectors,
    telling_words,
    words_needed,
)
from commbert.known import Keys, read_known
from commbert.nn.devices import choose_device
from commbert.nn.encoder import Bert
from commbert.nn.measures import nsp_scores
from commbert.nn.model import load_bert, missing_parts, special_ids, text_vectors
from commbert.nn.packing import SpecialIds
from commbert.provenance import digest, digest_of_files, environment
from commbert.rows import count_tokens, read_places, read_windows
from commbert.sentences import IS_NEXT, Documents
from commbert.settings.evaluation import EvaluationSettings
from commbert.tokenization.encoding import cut_alike, encode_words, load_tokenizer

_HUB_QUERIES = 5000
"""Words that name their neighbours, for the hubness."""

Ints = NDArray[np.int64]


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
    functions: Path
    acronyms: Path
    terms: Path
    opposites: Path
    similarity: Path
    general_text: Path


@dataclass(frozen=True)
class ModelSubject:
    """A model folder with its own tokenizer."""

    folder: Path
    pooling: str
    """``mean`` or ``cls``."""
    has_trained_head: bool
    """False: the folder's MLM head was never trained, so MLM is not measured."""
    device: str
    """As in ``runtime.device``."""
    has_trained_nsp: bool = False
    """False: its NSP head was never trained, so NSP is not measured."""


@dataclass(frozen=True)
class VectorsSubject:
    """The table word_vectors of a baseline: it knows words, and no other text."""

    path: Path


@dataclass(frozen=True)
class FrequencySubject:
    """The rule that knows nothing but how frequent a word is."""


Subject = ModelSubject | VectorsSubject | FrequencySubject


@dataclass(frozen=True)
class _Network:
    """A loaded model."""

    bert: Bert
    tokenizer: Tokenizer
    specials: SpecialIds
    subject: ModelSubject
    device: torch.device
    most_tokens: int

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Return [n, h] unit vectors; longer texts are cut."""
        sequences = [ids[: self.most_tokens] for ids in encode_words(self.tokenizer, list(texts))]
        return text_vectors(self.bert, sequences, self.specials, pooling=self.subject.pooling, device=self.device)


@dataclass(frozen=True)
class _Case:
    """What all measurements share."""

    settings: EvaluationSettings
    data: EvaluationPaths
    split: str
    words: Words
    known: Keys
    pairs: ladder.HeldOutPairs
    in_split: NDArray[np.bool_]
    space: Space
    network: _Network | None


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
    case = _case(settings, subject, data, split)
    scores: Scores = {}
    found_controls, strata = _score_pairs(scores, case)
    mlm_reason, unigram = _score_masked(scores, case)
    sentences = _score_sentences(scores, case, mlm_reason)
    result: dict[str, Any] = {
        "controls": {rung: vars(of_rung) for rung, of_rung in found_controls.items()},
        "strata": strata,
        "retrieval": _score_retrieval(scores, case),
        "geometry": _geometry(case),
        "mlm_reason": mlm_reason,
        "unigram": unigram,
        "sentences": sentences,
        **_score_meaning(scores, case),
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


def _case(settings: EvaluationSettings, subject: Subject, data: EvaluationPaths, split: str) -> _Case:
    words, known = read_evaluated_words(data.words), read_known(data.known)
    pairs = ladder.read_pairs(data.pairs, known)
    network = _opened(subject, settings) if isinstance(subject, ModelSubject) else None
    needed = words_needed(words, *pairs.negative.values(), pairs.anchor, pairs.positive)
    if network is not None:
        space = space_of_vectors(words, network.embed([words.text[i] for i in needed]), needed)
    elif isinstance(subject, VectorsSubject):
        space = _space_of_table(words, data.words, subject.path)
    else:
        space = ByFrequency(words)
    in_split = split_of_files(data.files) == tables.SPLITS.index(split)
    return _Case(settings, data, split, words, known, pairs, in_split, space, network)


def _opened(subject: ModelSubject, settings: EvaluationSettings) -> _Network:
    device = choose_device(subject.device)
    network, tokenizer = load_bert(subject.folder).to(device), load_tokenizer(subject.folder)
    return _Network(network, tokenizer, special_ids(subject.folder), subject, device, settings.text_tokens - 2)


def _space_of_table(words: Words, words_table: Path, path: Path) -> Space:
    if tables.provenance_of(path).get("words") != tables.content_digest(words_table):
        raise DataError(
            f"{path}: expected vectors of the words of {words_table}, found those of others. Make it again."
        )
    vectors, n_words = read_vectors(path), len(words.text)
    if len(vectors) != n_words:
        raise DataError(f"{path}: expected a vector for each of {n_words} words, found {len(vectors)}. Make it again.")
    return space_of_vectors(words, torch.from_numpy(vectors), np.arange(n_words))


def _score_pairs(scores: Scores, case: _Case) -> tuple[dict[str, Controls], list[dict[str, Any]]]:
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


def _strata(rung: str, found: ladder.RungScores, case: _Case, n_pieces: Ints | None) -> list[dict[str, Any]]:
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


def _geometry(case: _Case) -> dict[str, Any] | None:
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


def _score_retrieval(scores: Scores, case: _Case) -> dict[str, Any]:
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


def _score_masked(scores: Scores, case: _Case) -> tuple[str, dict[str, float] | None]:
    """Score hidden tokens of held-out windows and of general English; return why not, and the unigram's figures."""
    network, data, seed = case.network, case.data, case.settings.seed
    if network is None:
        return "no language model", None
    folder = network.subject.folder
    if "mlm_head" in missing_parts(folder) or not network.subject.has_trained_head:
        return "the model has no trained MLM head", None
    sentences = general.read_sentences(data.general_text)
    english = general.general_mlm(
        network.bert, network.tokenizer, network.specials, sentences, seed=seed, device=network.device
    )
    ones = np.ones(len(english.loss_nats))
    columns = {
        "loss": (english.loss_nats, ones),
        "top1": ((english.rank < 1).astype(np.float64), ones),
        "loss_per_char": (english.loss_nats, english.n_chars),
        "loss_per_word": (english.loss_nats, english.n_words),
    }
    for name, (value, weight) in columns.items():
        scores[f"general_mlm_{name}"] = Column(np.arange(len(ones)), english.sentence, value, weight)
    if not cut_alike(folder, data.windows_tokenizer):
        return "the windows were cut with another tokenizer", None
    heldout = read_windows(data.windows)
    longest, positions = int(heldout.sizes.max(initial=0)) + 2, network.bert.config.max_position_embeddings
    if longest > positions:
        raise ModelError(
            f"{folder}: expected at least {longest} positions for the windows, found {positions}. Lower "
            "windows.max_length."
        )
    rng = np.random.default_rng([seed, 6])
    rows = np.sort(rng.choice(len(heldout), min(case.settings.windows, len(heldout)), replace=False))
    found, hidden = masked_scores(
        network.bert,
        network.tokenizer,
        network.specials,
        heldout.rows(rows),
        clusters=rows,
        seed=seed,
        device=network.device,
    )
    scores.update(found)
    counts = count_tokens(data.train_windows, network.bert.config.vocab_size)
    return "", unigram_figures(hidden, counts, found["mlm_loss_per_char"].weight)


def _score_sentences(scores: Scores, case: _Case, mlm_reason: str) -> dict[str, Any] | None:
    """Score whether the second of two held-out windows follows the first; None where nothing was trained to tell.

    Pairs that begin in one file are one cluster of the bootstrap.
    """
    network, seed = case.network, case.settings.seed
    if network is None or not network.subject.has_trained_nsp or mlm_reason:
        return None
    file_id, *lines = read_places(case.data.windows)
    documents = Documents.of(file_id, *lines)
    if not documents.gives_pairs:
        return {"pairs": 0}
    rng = np.random.default_rng([seed, 8])
    n = min(case.settings.windows, len(documents.firsts))
    first = np.sort(rng.choice(documents.firsts, n, replace=False))
    heldout = read_windows(case.data.windows)
    pairs = documents.pairs(first, np.zeros_like(first), seed=seed)
    # Training refused pairs that are too long; a held-out one may be longer still.
    n_tokens = heldout.lengths(pairs.first) + heldout.lengths(pairs.second) + 3
    pairs = pairs.chosen(np.flatnonzero(n_tokens <= network.bert.config.max_position_embeddings))
    n_longer, n = n - len(pairs), len(pairs)
    if not n:
        return {"pairs": 0, "longer_than_the_model": n_longer}
    found = nsp_scores(network.bert, heldout, pairs, network.specials, device=network.device)
    columns = {"accuracy": found.is_right.astype(np.float64), "loss": found.loss}
    for name, value in columns.items():
        scores[f"nsp_{name}"] = Column(np.arange(n), file_id[pairs.first], value, np.ones(n))
    follows_pct = 100.0 * float((pairs.label == IS_NEXT).mean())
    return {"pairs": n, "longer_than_the_model": n_longer, "follows_pct": follows_pct}


def _score_meaning(scores: Scores, case: _Case) -> dict[str, Any]:
    """Score what needs text: acronyms, general similarity, briefs of functions; and how often opposites are nearest."""
    told: dict[str, Any] = {"opposites": _opposites(case)}
    if case.network is None:
        return told
    embed, settings = case.network.embed, case.settings
    rows = tables.read(case.data.acronyms, tables.ACRONYMS).to_pylist()
    mined = [(row["acronym"], row["expansion"]) for row in rows]
    is_novel = np.array([not row["n_train_lines"] for row in rows], np.bool_)
    for task, pairs in (("acronym", mined), ("term", meaning.read_terms(case.data.terms))):
        lookup = meaning.acronym_ranks(embed, pairs)
        told[task] = {"pairs": len(pairs)}
        sides = (lookup.to_expansion, lookup.to_acronym)
        told[task] |= {
            name: float(side.reciprocal_rank.mean()) if len(pairs) else None
            for name, side in zip(("to_expansion_mrr", "to_acronym_mrr"), sides, strict=True)
        }
        # A pair asked in both directions is one cluster.
        cluster, item = np.tile(np.arange(len(pairs)), 2), np.arange(2 * len(pairs))
        for name, field in (("mrr", "reciprocal_rank"), ("r1", "recall_at_1")):
            value = np.concatenate([getattr(side, field) for side in sides])
            scores[f"{task}_{name}"] = Column(item, cluster, value, np.ones(len(value)))
            if task == "acronym":
                novel = np.flatnonzero(np.tile(is_novel, 2))
                scores[f"acronym_{name}_novel"] = Column(item[novel], cluster[novel], value[novel], np.ones(len(novel)))
    told["acronym"]["novel"] = int(is_novel.sum())
    graded = meaning.read_similarity(case.data.similarity)
    every, cosine = np.arange(len(graded)), meaning.similarity_cosines(embed, graded)
    scores[CORRELATION] = Column(every, every, cosine, np.array([row.relation for row in graded], np.float64))
    functions = read_function_texts(case.data.functions, case.in_split)
    ranks = brief_ranks(embed, functions, seed=settings.seed, max_candidates=settings.briefs)
    told["briefs"] = json_ready({"functions": len(functions), "asked": ranks.n_candidates, "chance_mrr": ranks.chance})
    ones, item = np.ones(len(ranks.function_id)), np.arange(len(ranks.function_id))
    found = {"mrr": ranks.reciprocal_rank, "r1": (ranks.reciprocal_rank == 1.0).astype(np.float64)}
    for name, value in found.items():
        # Briefs of one file are alike: the file is what is resampled.
        scores[f"brief_{name}"] = Column(item, ranks.file_id, value, ones)
    return told


def _opposites(case: _Case) -> dict[str, Any] | None:
    if isinstance(case.space, ByFrequency):
        return None
    ids = case.words.candidates
    words, pairs = [case.words.text[i] for i in ids], meaning.read_opposites(case.data.opposites)
    asked = meaning.words_with_opposites(words, pairs)
    nearest = np.full(len(words), -1, np.int64)
    if len(words) > 1:
        nearest[asked] = geometry.neighbours(case.space.vectors_of(ids), 1, queries=asked)[0][:, 0]
    return json_ready(vars(meaning.opposites_rate(words, nearest, pairs)))


def _neighbours(case: _Case) -> dict[str, list[list[Any]]]:
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
