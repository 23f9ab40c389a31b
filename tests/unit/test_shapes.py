"""The shapes in signatures are more than comments: under test a wrong one is an error."""

import pytest
import torch
from jaxtyping import TypeCheckError

from commbert.nn.losses import mlm_loss_sum


def test_a_wrong_shape_is_refused_at_the_door() -> None:
    with pytest.raises(TypeCheckError):
        mlm_loss_sum(torch.zeros(3, 5), torch.zeros(7, 4), torch.zeros(7), torch.zeros(3, dtype=torch.int64))
