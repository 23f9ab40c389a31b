"""AdamW with decay groups, the learning-rate schedules, and the learnt temperature."""

import math

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from commbert.nn.encoder import Bert
from commbert.settings.training import Contrastive, Optimizer, TrainingSettings

_HEAD = ("mlm_dense.", "mlm_norm.", "pooler.", "nsp.")
_OF_NSP = ("pooler.", "nsp.")
"""Only NSP reads these: without it, weight decay would shrink what the base model brought."""
LOG_TEMPERATURE = "log_temperature"
PROJECTION = "projection."
"""What the names of the projection's parameters begin with."""


class Temperature:
    """The temperature of the pair loss, fixed or learnt.

    Learnt is its logarithm, as in CLIP (Radford et al. 2021, arXiv:2103.00020, section 2.5), and it is put back within
    its bounds after every step.
    """

    def __init__(self, settings: Contrastive, like: Tensor) -> None:
        """Keep the temperature on the device and in the precision of ``like``."""
        self._settings = settings
        self.parameter: nn.Parameter | None = None
        if settings.temperature_learning_rate is not None:
            start = like.new_tensor(math.log(settings.temperature))
            self.parameter = nn.Parameter(start)

    def value(self) -> Tensor | float:
        """Return the temperature, with gradient if it is learnt."""
        return self._settings.temperature if self.parameter is None else self.parameter.exp()

    def clamp(self) -> None:
        """Put it back within its bounds."""
        if self.parameter is not None:
            low, high = math.log(self._settings.temperature_min), math.log(self._settings.temperature_max)
            self.parameter.data.clamp_(low, high)


def trainable_parameters(model: Bert, settings: TrainingSettings) -> dict[str, nn.Parameter]:
    """Freeze what the objectives do not train and return the rest by name, in the model's order.

    The decoder is the word embeddings and appears once, under their name.
    """
    chosen: dict[str, nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        is_head = name.startswith("mlm_")
        used = settings.objectives.nsp > 0 if name.startswith(_OF_NSP) else settings.objectives.has_mlm or not is_head
        parameter.requires_grad_(used and (settings.trainable == "all" or is_head))
        if parameter.requires_grad:
            chosen[name] = parameter
    return chosen


def parameter_groups(parameters: dict[str, nn.Parameter], settings: TrainingSettings) -> list[dict[str, object]]:
    """Return AdamW's groups: decay for matrices only; the heads and the temperature may have their own rate.

    Each group carries its peak rate under ``peak``. What is sharded and what is not are never in one group: the fused
    optimizer takes them one kind at a time.
    """
    optimizer, temperature_rate = settings.optimizer, settings.contrastive.temperature_learning_rate
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        rate = optimizer.learning_rate
        if name.startswith((*_HEAD, PROJECTION)):
            rate = optimizer.head_learning_rate or rate
        if name == LOG_TEMPERATURE:
            rate = temperature_rate or rate
        decay = optimizer.weight_decay if parameter.ndim >= 2 else 0.0
        groups.setdefault((rate, decay, isinstance(parameter, DTensor)), []).append(parameter)
    return [{"params": ps, "lr": rate, "peak": rate, "weight_decay": decay} for (rate, decay, _), ps in groups.items()]


def adamw_options(settings: Optimizer) -> dict[str, object]:
    """Return AdamW's options (Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2)."""
    return {"betas": (settings.beta1, settings.beta2), "eps": settings.epsilon, "fused": True}


def rate_factor(step: int, n_steps: int, settings: Optimizer) -> float:
    """Return what the peak rate is multiplied by at a step, counted from 0.

    Linear warm-up from above 0; then linear or along half a cosine to 0, or constant (a plateau's factor comes on top).
    """
    n_warmup = round(settings.warmup_fraction * n_steps)
    if step < n_warmup:
        return (step + 1) / n_warmup
    left = (n_steps - step) / max(1, n_steps - n_warmup)
    if settings.schedule == "linear":
        return left
    if settings.schedule == "cosine":
        return 0.5 * (1.0 - math.cos(math.pi * left))
    return 1.0


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's rate to its peak times the factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
