"""What the processes share: nothing (each has all), the optimizer's state (ZeRO 1), or the weights too (FSDP).

The result is that of one process whatever is shared, and a checkpoint of one strategy is one of all others.
"""

from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor, distribute_tensor

from commbert.errors import SettingsError
from commbert.nn.collectives import Processes, differing, sum_gradients
from commbert.nn.encoder import Bert
from commbert.nn.projection import make_projection
from commbert.settings.training import TrainingSettings
from commbert.training.optimization import (
    LOG_TEMPERATURE,
    PROJECTION,
    Temperature,
    adamw_options,
    parameter_groups,
    trainable_parameters,
)

_STATE_BYTES = 16
"""Of a parameter in training: weight, gradient and both moments in float32."""


def choose_strategy(wanted: str, processes: Processes, device: torch.device, n_parameters: int) -> tuple[str, str]:
    """Return ``single``, ``ddp``, ``zero1`` or ``fsdp``, and why.

    Raises:
        SettingsError: If ``single`` is asked for with several processes.
    """
    n = processes.world_size
    if n == 1:
        return "single", "as set" if wanted == "single" else f"one process has nothing to share ({wanted} was set)"
    if wanted == "single":
        raise SettingsError(
            f"runtime.strategy: single is for one process, found {n}. Use auto, or runtime.processes: 1."
        )
    if wanted != "auto":
        return wanted, "as set"
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
        needed = _STATE_BYTES * n_parameters
        if needed > memory / 2:
            return "fsdp", f"the training's state, {needed / 2**30:.1f} GiB, is more than half of a GPU's memory"
    return "ddp", f"{n} processes, and each can hold the whole state"


def make_strategy(name: str, model: Bert, settings: TrainingSettings, processes: Processes) -> "Replicated":
    """Return the strategy of that name; ``fsdp`` changes the model in place."""
    kinds: dict[str, type[Replicated]] = {"zero1": Zero1, "fsdp": Fsdp}
    return kinds.get(name, Replicated)(model, settings, processes)


class Replicated:
    """Every process has all weights and the whole optimizer; gradients are summed."""

    is_even = False
    """Whether all processes must compute as many parts of a step."""

    def __init__(self, model: Bert, settings: TrainingSettings, processes: Processes) -> None:
        self.model, self.processes = model, processes
        self._share()
        self.parameters = trainable_parameters(model, settings)
        self.temperature = Temperature(settings.contrastive, torch.zeros((), dtype=model.dtype, device=_device(model)))
        if self.temperature.parameter is not None:
            self.parameters[LOG_TEMPERATURE] = self.temperature.parameter
        self.projection = make_projection(
            settings.contrastive if settings.objectives.has_contrastive else None,
            model.config.hidden_size,
            seed=settings.seed,
            like=torch.zeros((), dtype=model.dtype, device=_device(model)),
        )
        if self.projection is not None:
            self.parameters |= {PROJECTION + n: p for n, p in self.projection.named_parameters()}
        groups, options = parameter_groups(self.parameters, settings), adamw_options(settings.optimizer)
        self.optimizer = self._make_optimizer(groups, options)

    def _share(self) -> None:
        """Change the model in place before the optimizer is made."""

    def _make_optimizer(self, groups: list[dict[str, object]], options: dict[str, object]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, **options)  # type: ignore[arg-type]

    def sum_gradients(self) -> Tensor:
        """Sum gradients over processes; return the norm of this process's own share."""
        return sum_gradients(list(self.parameters.values()), self.processes)

    def clip(self, most: float) -> Tensor:
        """Scale the gradient of all weights down to a norm; return the norm that it had.

        The temperature stands outside.
        """
        weights = [p for n, p in self.parameters.items() if n != LOG_TEMPERATURE and p.grad is not None]
        # torch takes no list in which some are sharded and some are not.
        kinds = [[p for p in weights if isinstance(p, DTensor) == sharded] for sharded in (True, False)]
        kinds = [kind for kind in kinds if kind]
        norms = [_whole(torch.nn.utils.get_total_norm([p.grad for p in k if p.grad is not None])) for k in kinds]
        norm = norms[0] if len(norms) == 1 else torch.nn.utils.get_total_norm(norms)
        for kind in kinds:
            torch.nn.utils.clip_grads_with_norm_(kind, most, norm)
        return norm

    def step(self, is_bad: Tensor) -> None:
        """Let the optimizer change the weights, unless ``is_bad`` is 1, which only the device needs to know."""
        self._inner.found_inf = is_bad  # type: ignore[attr-defined]
        self.optimizer.step()
        self.temperature.clamp()

    @property
    def _inner(self) -> torch.optim.Optimizer:
        """The optimizer that changes this process's weights."""
        return self.optimizer

    def differing(self) -> list[str]:
        """Return the parameters that are not the same on all processes, which must not be."""
        return differing(dict(self.parameters), self.processes)

    def weights(self) -> dict[str, Tensor]:
        """Return all trained tensors, whole, on the CPU; all processes must ask."""
        return {n: _whole(p.detach()).cpu().contiguous() for n, p in self.parameters.items()}

    def moments(self) -> dict[str, Tensor]:
        """Return the optimizer's state under ``parameter|key``, whole, on the CPU; all processes must ask."""
        return {
            f"{name}|{key}": _whole(torch.as_tensor(value)).detach().cpu().contiguous()
            for name, parameter in self.parameters.items()
            for key, value in self.optimizer.state.get(parameter, {}).items()
        }

    def restore(self, weights: dict[str, Tensor], moments: dict[str, Tensor]) -> None:
        """Put whole tensors back in their places."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(_like(weights[name], parameter))
        self._restore_moments(moments)

    def _restore_moments(self, moments: dict[str, Tensor]) -> None:
        own = {p for group in self._inner.param_groups for p in group["params"]}
        for name, parameter in self.parameters.items():
            if parameter in own:
                self._inner.state[parameter] = {
                    key: _like(value, parameter) if value.ndim else value.to(parameter.device)
                    for key, value in _of(moments, name).items()
                }

    def whole_model(self) -> Bert | None:
        """Return the model with whole weights, for writing; None where it is not the first process's."""
        return self.model if self.processes.is_first else None


class Zero1(Replicated):
    """Each process keeps the optimizer's state of its share of the parameters (torch's own ZeRO 1)."""

    def _make_optimizer(self, groups: list[dict[str, object]], options: dict[str, object]) -> torch.optim.Optimizer:
        return ZeroRedundancyOptimizer(groups, torch.optim.AdamW, **options)  # type: ignore[arg-type]

    @property
    def _inner(self) -> torch.optim.Optimizer:
        inner: torch.optim.Optimizer = self.optimizer.optim  # type: ignore[attr-defined]
        return inner

    def _names(self) -> list[str]:
        """Return the parameters' names in the order in which the optimizer counts them."""
        name_of = {p: n for n, p in self.parameters.items()}
        return [name_of[p] for group in self.optimizer.param_groups for p in group["params"]]

    def moments(self) -> dict[str, Tensor]:
        """Return the optimizer's state, brought together on the first process."""
        self.optimizer.consolidate_state_dict(to=0)  # type: ignore[attr-defined]
        if not self.processes.is_first:
            return {}
        state = self.optimizer.state_dict()["state"]
        return {
            f"{name}|{key}": torch.as_tensor(value).cpu().contiguous()
            for number, name in enumerate(self._names())
            for key, value in state.get(number, {}).items()
        }


class Fsdp(Replicated):
    """Weights, gradients and moments are split over the processes, layer by layer (torch's fully_shard)."""

    is_even = True

    def _share(self) -> None:
        device = _device(self.model)
        mesh = init_device_mesh(device.type, (self.processes.world_size,))
        for layer in self.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(self.model, mesh=mesh)
        for method in ("hidden_states", "mlm_logits", "nsp_logits"):
            register_fsdp_forward_method(self.model, method)

    def sum_gradients(self) -> Tensor:
        """Sum what is not sharded: temperature and projection. The shards were averaged in backward and become sums."""
        for p in self.parameters.values():
            if isinstance(p, DTensor) and p.grad is not None:
                p.grad.mul_(self.processes.world_size)
        plain = [p for p in self.parameters.values() if not isinstance(p, DTensor)]
        sum_gradients(plain, self.processes)
        return torch.zeros((), device=_device(self.model))

    def differing(self) -> list[str]:
        """Compare what is not sharded: temperature and projection."""
        plain: dict[str, Tensor] = {n: p for n, p in self.parameters.items() if not isinstance(p, DTensor)}
        return differing(plain, self.processes) if plain else []

    def whole_model(self) -> Bert | None:
        """Return a copy with whole weights on the first process."""
        assert isinstance(self.model, FSDPModule)
        state = {n: _whole(t).cpu() for n, t in self.model.state_dict().items()}
        if not self.processes.is_first:
            return None
        copy = Bert(self.model.config).to(self.model.dtype)
        copy.load_state_dict(state)
        return copy


def _device(model: Bert) -> torch.device:
    return next(model.parameters()).device


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _like(value: Tensor, other: Tensor) -> Tensor:
    """Return a whole tensor on the device, and in the shards, of another."""
    value = value.to(other.device)
    if isinstance(other, DTensor):
        return distribute_tensor(value, other.device_mesh, other.placements)
    return value


def _of(moments: dict[str, Tensor], name: str) -> dict[str, Any]:
    """Return the state of one parameter by key."""
    return {key.rsplit("|", 1)[1]: value for key, value in moments.items() if key.rsplit("|", 1)[0] == name}
