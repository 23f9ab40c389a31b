"""Ranks of wanted words among all candidates, by the cosine to each query."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]


def ranks_of_wanted(
    queries: Float[Tensor, "q h"],
    candidates: Float[Tensor, "n h"],
    wanted: Sequence[Ints],
    taken_out: Callable[[int], NDArray[np.bool_]],
    *,
    block: int = 256,
) -> Iterator[NDArray[np.float64]]:
    """Yield for each query the ranks of what it looks for, ascending, the first candidate at 1; exact.

    Ties count half: a model that gives every word one vector has found nothing.

    Args:
        queries: Unit vectors, on the CPU.
        candidates: Unit vectors, on the CPU.
        wanted: Of each query the rows in ``candidates`` that it looks for, one at least, none of them taken out.
        taken_out: Called with the number of a query: [n] which candidates do not take part (the query itself, its
            known partners).
        block: Queries whose scores are in memory at a time.
    """
    for low in range(0, len(wanted), block):
        scores = queries[low : low + block] @ candidates.T
        for i, score in enumerate(scores, start=low):
            score[torch.from_numpy(taken_out(i))] = -torch.inf
            found = score[torch.from_numpy(wanted[i])]
            ascending = score.sort().values
            not_above = torch.searchsorted(ascending, found, right=True)
            tied = not_above - torch.searchsorted(ascending, found) - 1
            yield np.sort((len(score) - not_above + tied / 2 + 1).double().numpy())
