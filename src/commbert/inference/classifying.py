"""Which class a text has: a fine-tuned classifier's probabilities, or its score."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from commbert.artifacts import read_json
from commbert.errors import ModelError
from commbert.inference.models import AskedModel, load_model
from commbert.inference.texts import AskedText, in_chunks, named
from commbert.nn.packing import batches_by_length, pack_sequences

_BATCH_TOKENS = 16384
_PROBLEMS = ("single_label_classification", "multi_label_classification", "regression")


@dataclass(frozen=True)
class ClassScore:
    """One class, or the one score of a regression."""

    label: str
    score: float
    """A probability; of a regression the number that was predicted."""


@dataclass(frozen=True)
class Prediction:
    """A text and what was predicted."""

    text: str
    where: str
    scores: tuple[ClassScore, ...]
    """Likeliest first; of a regression in the order of the labels."""

    def as_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return {"text": self.text, "where": self.where, "scores": [vars(score) for score in self.scores]}


@dataclass(frozen=True)
class Classifier:
    """A model with the head of transformers' BertForSequenceClassification."""

    model: AskedModel
    weight: Float[Tensor, "classes h"]
    bias: Float[Tensor, " classes"]
    labels: tuple[str, ...]
    """``id2label`` of config.json."""
    problem: str
    """As transformers names it: ``single_label_classification`` (the classes share one probability),
    ``multi_label_classification`` (each has its own), ``regression``."""

    def logits(self, first: Float[Tensor, "n h"]) -> Float[Tensor, "n classes"]:
        """Return the logits of the sequences whose [CLS] states these are."""
        return self.model.bert.pooled(first) @ self.weight.T + self.bias

    def scores(self, logits: Float[Tensor, "n classes"]) -> Float[Tensor, "n classes"]:
        """Return probabilities, or the numbers of a regression."""
        if self.problem == "regression":
            return logits
        single = self.problem == "single_label_classification"
        return torch.softmax(logits, -1) if single else torch.sigmoid(logits)


def load_classifier(folder: Path, *, device: str = "auto") -> Classifier:
    """Load a folder that ``commbert finetune`` or transformers' BertForSequenceClassification left.

    Only local safetensors are read, and no code of the folder is run.

    Raises:
        ModelError: If the folder has no classifier head, or one that does not fit its config.json.
    """
    model = load_model(folder, device=device)
    classifier = classifier_of(model)
    if classifier is None:
        raise ModelError(
            f"{folder}: predicting needs a classifier head, found none in this folder. "
            "Name a folder that commbert finetune left."
        )
    return classifier


def classifier_of(model: AskedModel) -> Classifier | None:
    """Return a loaded model with the classifier head of its folder; None where the folder has none.

    Raises:
        ModelError: If the head does not fit the folder's config.json, or the folder has no pooler.
    """
    folder = model.folder
    weights = folder / "model.safetensors"
    try:
        with safe_open(str(weights), framework="pt") as file:
            names = set(file.keys())
            head = [file.get_tensor(n).float() for n in ("classifier.weight", "classifier.bias") if n in names]
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{weights}: cannot be read: {error}. Fetch the model again.") from error
    if len(head) != 2:
        return None
    model.needs("pooler", "predicting")
    weight, bias = head
    config = read_json(folder / "config.json")
    if bias.ndim != 1 or weight.shape != (len(bias), model.bert.config.hidden_size):
        raise ModelError(
            f"{folder}: expected a classifier head of hidden size {model.bert.config.hidden_size}, found "
            f"{list(weight.shape)}. Train it again."
        )
    labels = _labels(config.get("id2label"), weight, folder)
    # Without the name, transformers decides by the number of labels.
    problem = config.get("problem_type") or ("regression" if len(labels) == 1 else _PROBLEMS[0])
    if problem not in _PROBLEMS:
        raise ModelError(f"{folder}/config.json problem_type: expected {', '.join(_PROBLEMS)}, found {problem!a}.")
    return Classifier(model, weight.to(model.device), bias.to(model.device), labels, problem)


def _labels(id2label: Any, weight: Tensor, folder: Path) -> tuple[str, ...]:
    n = len(weight)
    named = id2label if isinstance(id2label, dict) else {str(i): f"LABEL_{i}" for i in range(n)}
    labels = tuple(name for i in range(n) if isinstance(name := named.get(str(i)), str))
    if len(labels) != n or len(named) != n or len(set(labels)) != n:
        raise ModelError(
            f"{folder}/config.json id2label: expected {n} different texts, one for each row of the classifier head, "
            f"found {len(named)}."
        )
    return labels


def predict(
    classifier: Classifier, texts: Iterable[str | AskedText], *, top_k: int | None = None, truncate: bool = False
) -> Iterator[Prediction]:
    """Yield the prediction of each text; texts may be endless, memory stays bounded.

    Probabilities are those of transformers' BertForSequenceClassification for the same tokens, in float32.

    Args:
        classifier: As ``load_classifier`` gives it.
        texts: What is classified.
        top_k: Classes of each text, likeliest first; None: all. A regression gives all its numbers.
        truncate: Keep the beginning of a text that is too long.

    Raises:
        DataError: If a text is too long.
        ModelError: If the model gives numbers that are not finite.
    """
    for some in in_chunks(named(texts)):
        scores = scores_of(classifier, some, truncate=truncate)
        is_ranked = classifier.problem != "regression"
        order = (
            np.argsort(-scores, axis=1, kind="stable")
            if is_ranked
            else np.tile(np.arange(scores.shape[1]), (len(some), 1))
        )
        for text, values, ranked in zip(
            some, scores.tolist(), order[:, : top_k if is_ranked else None].tolist(), strict=True
        ):
            yield Prediction(text.text, text.where, tuple(ClassScore(classifier.labels[i], values[i]) for i in ranked))


def scores_of(classifier: Classifier, texts: Sequence[AskedText], *, truncate: bool = False) -> NDArray[np.float32]:
    """Return [n, classes]: the probabilities of each text, or its numbers of a regression, in the order of the labels.

    Raises:
        DataError: If a text is too long.
        ModelError: If the model gives numbers that are not finite.
    """
    model = classifier.model
    sequences = model.token_ids(texts, truncate=truncate)
    out = torch.empty(len(texts), len(classifier.labels))
    with torch.inference_mode():
        for rows in batches_by_length(np.array([len(s) for s in sequences], np.int64), _BATCH_TOKENS):
            packed = pack_sequences([sequences[i] for i in rows], model.specials).to(model.device)
            first = model.bert.hidden_states(packed, packed.offsets[:-1].long())
            out[torch.from_numpy(rows)] = classifier.scores(classifier.logits(first)).cpu()
    if not bool(torch.isfinite(out).all()):
        raise ModelError(f"{model.folder}: expected finite scores, found NaN or infinity. Train it again.")
    found: NDArray[np.float32] = out.numpy()
    return found
