"""What stays the same over all steps of a training."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from commbert.nn.collectives import Processes
from commbert.nn.packing import SpecialIds
from commbert.settings.training import TrainingSettings
from commbert.training.data import TrainingData
from commbert.training.plan import Plan

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Context:
    """What stays the same over all steps."""

    settings: TrainingSettings
    data: TrainingData
    plan: Plan
    specials: SpecialIds
    regular_ids: Ints
    pooling: str
    most_positions: int
    """Tokens that the model takes at most; longer words are cut."""
    processes: Processes
    device: torch.device
    autocast: AbstractContextManager[None]
