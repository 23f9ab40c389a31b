"""A head on word vectors that only the pair loss sees: what the loss throws away, the vectors before it keep.

Reference: Chen et al. 2020, arXiv:2002.05709, sections 2.1 and 4.2.
"""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from commbert import counters
from commbert.nn.products import linear
from commbert.settings.training import Contrastive


class Projection(nn.Module):
    """g(h) = W h, or W2 relu(W1 h), without biases as in the paper."""

    def __init__(self, sizes: list[int], *, seed: int, like: Tensor) -> None:
        """Draw the weights.

        Args:
            sizes: Numbers of a vector before the first matrix and after each one.
            seed: Draws N(0, 1 / size before), the same on every process and device.
            like: On its device, in its precision.
        """
        super().__init__()
        rng = torch.Generator().manual_seed(counters.key(seed, "projection") >> 1)
        drawn = [torch.randn(after, before, generator=rng) * before**-0.5 for before, after in pairwise(sizes)]
        self.weights = nn.ParameterList(w.to(like) for w in drawn)

    def forward(self, vectors: Float[Tensor, "n h"]) -> Float[Tensor, "n p"]:
        """Return the projected vectors."""
        first, *rest = self.weights
        out = linear(vectors, first)
        for weight in rest:
            out = linear(functional.relu(out), weight)
        return out


def make_projection(settings: Contrastive | None, hidden_size: int, *, seed: int, like: Tensor) -> Projection | None:
    """Return the projection that the settings ask for; None for none, or where there is no pair loss."""
    if settings is None or settings.projection == "none":
        return None
    hidden = [hidden_size] * (2 if settings.projection == "mlp" else 1)
    return Projection([*hidden, settings.projection_size or hidden_size], seed=seed, like=like)
