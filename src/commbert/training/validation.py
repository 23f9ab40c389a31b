"""What is measured while training runs, on rows of the validation split."""

import numpy as np

from commbert.errors import TrainingError
from commbert.nn.encoder import Bert
from commbert.nn.measures import auc, cosines, mlm_scores
from commbert.nn.model import text_vectors
from commbert.training.batches import Context


def check_best_metric(context: Context) -> None:
    """Say before the first step that the metric which is to choose ``best/`` cannot be measured."""
    metric, data = context.settings.best_metric, context.data
    has_rows = {
        "auc_frequency_matched": len(data.validation_positive[0]) > 0,
        "mlm_loss": bool(data.validation_windows) and context.plan.windows.n_rows > 0,
    }
    if not has_rows[metric]:
        raise TrainingError(
            f"training.best_metric {metric}: expected rows for it in the validation split, found none. "
            "Choose the other metric, or raise corpus.split.validation."
        )


def validation_figures(model: Bert, context: Context) -> dict[str, float | None]:
    """Return the hard pair metric, the MLM figures and the mean cosine of unrelated words."""
    data = context.data
    found: dict[str, float | None] = {"auc_frequency_matched": None, "mlm_loss": None, "mlm_top1": None}
    (a, b), (c, d) = data.validation_positive, data.validation_negative
    if len(a):
        words = np.unique(np.concatenate([a, b, c, d]))
        vectors = text_vectors(
            model, data.words.rows(words), context.specials, pooling=context.pooling, device=context.device
        )
        row = {int(w): i for i, w in enumerate(words)}
        at = [np.array([row[int(w)] for w in ids]) for ids in (a, b, c, d)]
        positive, negative = cosines(vectors, at[0], at[1]), cosines(vectors, at[2], at[3])
        found["auc_frequency_matched"] = auc(positive, negative)
        found["mean_negative_cosine"] = float(negative.mean())
    if data.validation_windows and context.plan.windows.n_rows:
        scores = mlm_scores(
            model,
            data.validation_windows,
            context.specials,
            seed=context.settings.seed,
            rate=0.15,
            device=context.device,
        )
        found["mlm_loss"] = float(scores.loss.mean())
        found["mlm_top1"] = float((scores.rank == 0).mean())
    return found
