"""Scores of an evaluation that need a language model, which reads text: MLM, NSP, meaning."""

from typing import Any

import numpy as np

from commbert import tables
from commbert.errors import ModelError
from commbert.evaluation import general, meaning
from commbert.evaluation.bootstrap import json_ready
from commbert.evaluation.functions import brief_ranks, read_function_texts
from commbert.evaluation.masked import masked_scores, unigram_figures
from commbert.evaluation.scores import (
    CORRELATION,
    Column,
    Scores,
)
from commbert.nn.measures import nsp_scores
from commbert.nn.model import missing_parts
from commbert.rows import count_tokens, read_places
from commbert.sentences import IS_NEXT, Documents
from commbert.stages.subjects import Case
from commbert.tokenization.encoding import cut_alike


def score_masked(scores: Scores, case: Case) -> tuple[str, dict[str, float] | None]:
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
    heldout = case.heldout
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


def score_sentences(scores: Scores, case: Case, mlm_reason: str) -> dict[str, Any] | None:
    """Score whether the second of two held-out windows follows the first; None where nothing was trained to tell.

    Pairs that begin in one file are one cluster of the bootstrap.
    """
    network, seed = case.network, case.settings.seed
    if network is None or not network.subject.has_trained_nsp or mlm_reason:
        return None
    file_id, *places = read_places(case.data.windows)
    documents = Documents.of(file_id, *places)
    if not documents.gives_pairs:
        return {"pairs": 0}
    rng = np.random.default_rng([seed, 8])
    n = min(case.settings.windows, len(documents.firsts))
    first = np.sort(rng.choice(documents.firsts, n, replace=False))
    heldout = case.heldout
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


def score_meaning(scores: Scores, case: Case) -> dict[str, Any]:
    """Score what needs text: acronyms, general similarity, briefs of functions."""
    told: dict[str, Any] = {}
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
