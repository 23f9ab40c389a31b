"""What is measured while training runs, on rows of the validation split."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from commbert.errors import TrainingError
from commbert.nn.encoder import Bert
from commbert.nn.measures import (
    MASK_RATE,
    auc,
    cosines,
    effective_rank,
    mlm_scores,
    nsp_scores,
    random_pairs,
    uniformity,
)
from commbert.nn.model import text_vectors
from commbert.training.context import Context

FIGURES = (
    "hard",
    "auc_frequency_matched_novel",
    "retrieval_mrr",
    "auc_frequency_matched",
    "mlm_loss",
    "nsp_accuracy",
    "nsp_loss",
    "mlm_top1",
    "mean_negative_cosine",
    "effective_rank",
    "uniformity",
)
_RANDOM_PAIRS = 20_000


def check_best_metric(context: Context) -> None:
    """Say before the first step that the metric which is to choose ``best/`` cannot be measured."""
    metric, data = context.settings.best_metric, context.data
    has_rows = {
        "auc_frequency_matched": len(data.validation_positive[0]) > 0,
        "auc_frequency_matched_novel": bool(data.validation_is_novel.any()),
        "retrieval_mrr": len(data.validation_retrieval) > 0,
        "mlm_loss": bool(data.validation_windows) and context.plan.windows.n_rows > 0,
    }
    parts = ("auc_frequency_matched_novel", "retrieval_mrr") if metric == "hard" else (metric,)
    lacking = [part for part in parts if not has_rows[part]]
    if lacking:
        raise TrainingError(
            f"training.best_metric {metric}: expected rows for {' and '.join(lacking)} in the validation split, found "
            "none. Choose another metric, or raise corpus.split.validation."
        )


def validation_figures(model: Bert, context: Context) -> dict[str, float | None]:
    """Return the pair metrics, the retrieval, the MLM and NSP figures, and three marks of collapse.

    These are the mean cosine of unrelated words (1 if all are one vector), the effective rank of the centred word
    vectors (dimensions in use), and their uniformity (0 if all are one vector, about -4 if evenly spread).
    ``hard`` is the mean of ``auc_frequency_matched_novel`` and ``retrieval_mrr``. What has no rows is None.
    """
    found: dict[str, float | None] = dict.fromkeys(FIGURES)
    found |= _of_words(model, context)
    novel, mrr = found["auc_frequency_matched_novel"], found["retrieval_mrr"]
    if novel is not None and mrr is not None:
        found["hard"] = (novel + mrr) / 2
    data = context.data
    if data.validation_windows and context.plan.windows.n_rows:
        scores = mlm_scores(
            model,
            data.validation_windows,
            context.specials,
            seed=context.settings.seed,
            rate=MASK_RATE,
            device=context.device,
        )
        found["mlm_loss"] = float(scores.loss.mean())
        found["mlm_top1"] = float((scores.rank == 0).mean())
    if context.settings.objectives.nsp and data.validation_sentences is not None:
        told = nsp_scores(model, *data.validation_sentences, context.specials, device=context.device)
        found["nsp_loss"], found["nsp_accuracy"] = float(told.loss.mean()), float(told.is_right.mean())
    return found


def _of_words(model: Bert, context: Context) -> dict[str, float]:
    """Return the figures of word vectors; each word is encoded once for all of them."""
    data = context.data
    (a, b), (c, d), retrieval = data.validation_positive, data.validation_negative, data.validation_retrieval
    words = np.unique(np.concatenate([a, b, c, d, retrieval.words]))
    if not len(words):
        return {}
    vectors = text_vectors(
        model, data.words.rows(words), context.specials, pooling=context.pooling, device=context.device
    )

    def rows(ids: Any) -> Any:
        return np.searchsorted(words, ids)

    found = _spread(vectors, seed=context.settings.seed)
    if len(a):
        positive, negative = cosines(vectors, rows(a), rows(b)), cosines(vectors, rows(c), rows(d))
        found["auc_frequency_matched"] = auc(positive, negative)
        found["mean_negative_cosine"] = float(negative.mean())
        novel = data.validation_is_novel
        if novel.any():
            found["auc_frequency_matched_novel"] = auc(positive[novel], negative[novel])
    if len(retrieval):
        query, candidate = vectors[rows(retrieval.query)], vectors[rows(retrieval.candidate)]
        found["retrieval_mrr"] = retrieval.mean_reciprocal_rank(query, candidate)
    return found


def _spread(vectors: Tensor, *, seed: int) -> dict[str, float]:
    """Return how the word vectors lie; not a number where one of them is none."""
    if len(vectors) < 2:
        return {}
    if not torch.isfinite(vectors).all():
        return {"effective_rank": float("nan"), "uniformity": float("nan")}
    return {
        "effective_rank": effective_rank(vectors, centred=True),
        "uniformity": uniformity(vectors, *random_pairs(len(vectors), _RANDOM_PAIRS, seed)),
    }
