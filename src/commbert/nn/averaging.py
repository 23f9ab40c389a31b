"""Models between the one that training starts from and the one that it ends with, by averaging their weights."""

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from commbert.errors import ModelError, SettingsError
from commbert.nn.encoder import Bert
from commbert.nn.model import load_bert

_NOT_AVERAGED = ("mlm_dense.", "mlm_norm.", "mlm_bias", "nsp.")
"""Heads: most base models are published without, and what was drawn in their place is nothing to go back to."""


def averaged(start: Bert, trained: Bert, share: float) -> Bert:
    """Return a model with the weights (1 - share) * trained + share * start.

    Averaged are embeddings, encoder and pooler. The MLM head's own parameters (transform and bias) stay those of
    ``trained``; its decoder is the word embeddings, so it moves with them. A share of 0 or 1 gives the weights of one
    side bit by bit, and so does a weight that training left alone. Computed in float64, rounded once.

    Args:
        start: The model that training started from, with the same vocabulary; both on the CPU.
        trained: What became of it.
        share: Of the start weights, 0 to 1.

    Raises:
        SettingsError: If the share is not between 0 and 1.
        ModelError: If the two models have other tensors or shapes.

    Reference: Wortsman et al. 2022, WiSE-FT, arXiv:2109.01903, section 3 (share = 1 - alpha).
    """
    if not 0.0 <= share <= 1.0:
        raise SettingsError(f"model.average_with_base: expected a share from 0 to 1, found {share:g}.")
    ours, theirs = trained.state_dict(), start.state_dict()
    differing = [n for n in sorted({*ours, *theirs}) if n not in ours or n not in theirs or not _alike(ours, theirs, n)]
    if differing:
        raise ModelError(
            f"start model: expected the tensors of the trained model, found other shapes of {', '.join(differing[:3])} "
            f"({len(differing)} in all). Name the folder that this training started from."
        )
    model = copy.deepcopy(trained)
    model.load_state_dict(
        {n: t if n.startswith(_NOT_AVERAGED) else _between(t, theirs[n], share) for n, t in ours.items()}
    )
    return model


def averaged_models(start: Path, trained: Path, shares: Sequence[float]) -> Iterator[tuple[float, Bert]]:
    """Yield (share, model) for each share of the start weights, without writing a folder; both are read once.

    Args:
        start: Folder that training started from (``results/runs/NAME/start``).
        trained: Folder that training left (``results/runs/NAME/trained/final``).
        shares: As in ``averaged``.

    Raises:
        ModelError: If a folder cannot be loaded or the two do not belong together.
    """
    first, last = load_bert(start), load_bert(trained)
    for share in shares:
        yield share, averaged(first, last, share)


def _alike(a: dict[str, Tensor], b: dict[str, Tensor], name: str) -> bool:
    return a[name].shape == b[name].shape


def _between(trained: Tensor, start: Tensor, share: float) -> Tensor:
    if share in (0.0, 1.0):
        return start if share else trained
    mixed = torch.lerp(trained.double(), start.double(), share).to(trained.dtype)
    # The sign of a zero, too, stays where nothing was trained.
    return torch.where(trained == start, trained, mixed)
