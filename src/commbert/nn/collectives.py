"""What processes do together. With one process every function is the identity."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from commbert.errors import PeerLostError, SettingsError

_TIMEOUT = timedelta(minutes=10)
_BROKEN = ("gloo", "Connection closed", "Connection reset", "NCCL", "Broken pipe")
"""What stands in gloo's and NCCL's messages when a process is gone."""


@dataclass(frozen=True)
class Processes:
    """This process among all, as its environment says it."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.rank == 0


def join(device_type: str) -> Processes:
    """Join the other processes: NCCL on CUDA, gloo elsewhere. Alone if nobody started several.

    Raises:
        SettingsError: If there are more processes than GPUs.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        return Processes()
    here = Processes(int(os.environ["RANK"]), world_size, int(os.environ["LOCAL_RANK"]))
    if device_type == "cuda":
        if here.local_rank >= torch.cuda.device_count():
            raise SettingsError(
                f"runtime.processes: expected at most {torch.cuda.device_count()}, the GPUs of this machine, "
                f"found {world_size}. Use auto."
            )
        torch.cuda.set_device(here.local_rank)
    dist.init_process_group(
        "nccl" if device_type == "cuda" else "gloo",
        init_method=os.environ.get("COMMBERT_RENDEZVOUS", "env://"),
        rank=here.rank,
        world_size=world_size,
        timeout=_TIMEOUT,
    )
    return here


@contextmanager
def losses_of_peers_named(processes: Processes) -> Iterator[None]:
    """Turn the errors that follow from the end of another process into one message.

    Raises:
        PeerLostError: Instead of what gloo or NCCL say.
    """
    try:
        yield
    except RuntimeError as error:
        is_distributed = isinstance(error, dist.DistError) or any(w in str(error) for w in _BROKEN)
        if processes.world_size == 1 or not is_distributed:
            raise
        raise PeerLostError(
            f"rank {processes.rank}: the connection to another training process broke; see its own error."
        ) from error


def leave(processes: Processes) -> None:
    """Leave the group."""
    if processes.world_size > 1 and dist.is_initialized():
        dist.destroy_process_group()


def summed(tensor: Tensor, processes: Processes) -> Tensor:
    """Return the sum over all processes (no gradient)."""
    if processes.world_size > 1:
        tensor = tensor.clone()
        dist.all_reduce(tensor)
    return tensor


def sum_gradients(parameters: Sequence[Tensor], processes: Processes) -> Float[Tensor, ""]:
    """Replace each gradient by its sum over all processes; a missing one counts as zero.

    Returns:
        The 2-norm that this process's own share had; 0 with one process, which has no share.
    """
    if processes.world_size == 1 or not parameters:
        return torch.zeros((), device=parameters[0].device if parameters else None)
    for p in parameters:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    flat = torch.cat([p.grad.reshape(-1) for p in parameters if p.grad is not None])
    own_norm = flat.norm()
    dist.all_reduce(flat)
    at = 0
    for p in parameters:
        if p.grad is not None:
            p.grad.copy_(flat[at : at + p.numel()].view_as(p))
            at += p.numel()
    return own_norm


def differing(tensors: dict[str, Tensor], processes: Processes) -> list[str]:
    """Return the names of the tensors that are not the same, bit by bit summed up, on all processes."""
    if processes.world_size == 1:
        return []
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    sums = torch.stack([t.detach().contiguous().view(bits[t.element_size()]).sum() for t in tensors.values()])
    least, most = sums.clone(), sums.clone()
    dist.all_reduce(least, dist.ReduceOp.MIN)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return [name for name, same in zip(tensors, (least == most).tolist(), strict=True) if not same]


class _GatherRows(torch.autograd.Function):
    """All ranks' rows, with gradient: backward sums the gradient of all ranks and takes this rank's rows."""

    @staticmethod
    def forward(ctx: Any, local: Tensor, n_rows: Sequence[int], rank: int) -> Tensor:
        ctx.rows = (sum(n_rows[:rank]), n_rows[rank])
        padded = local.new_zeros(max(n_rows), *local.shape[1:])
        padded[: len(local)] = local
        parts = [torch.empty_like(padded) for _ in n_rows]
        dist.all_gather(parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, n_rows, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        gradient = gradients[0].contiguous()
        dist.all_reduce(gradient)
        start, n = ctx.rows
        return gradient[start : start + n], None, None


def gather_rows(local: Float[Tensor, "n h"], n_rows: Sequence[int], processes: Processes) -> Float[Tensor, "total h"]:
    """Return the rows of all processes, rank after rank, with gradient to every one of them.

    Gathering without gradient gives the same loss and a wrong gradient. The caller's loss on this rank must be its
    share of a sum over ranks, and parameter gradients must be summed (not averaged) over ranks.

    Args:
        local: This rank's rows.
        n_rows: Rows of each rank.
        processes: All ranks.
    """
    if processes.world_size == 1:
        return local
    gathered: Tensor = _GatherRows.apply(local, n_rows, processes.rank)
    return gathered
