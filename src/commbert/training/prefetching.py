"""The batch of the next step is made while the device computes this one."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from torch import Tensor

from commbert.nn.packing import on_tensors
from commbert.training.batches import StepBatch, step_batch
from commbert.training.context import Context


@contextmanager
def prefetched(context: Context, *, is_even: bool) -> Iterator["Prefetcher"]:
    """Make the batch of the next step while the device computes this one."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as pool:
        yield Prefetcher(context, pool, is_even)


class Prefetcher:
    """Batches of one step after another."""

    def __init__(self, context: Context, pool: ThreadPoolExecutor, is_even: bool) -> None:
        self._context, self._pool, self._is_even = context, pool, is_even
        self._next: dict[int, Future[StepBatch]] = {}

    def get(self, step: int) -> StepBatch:
        """Return the step's batch on the device, and begin with the next one."""
        pending = self._next.pop(step, None) or self._pool.submit(self._make, step)
        if step + 1 < self._context.plan.n_steps:
            self._next = {step + 1: self._pool.submit(self._make, step + 1)}
        device = self._context.device
        return on_tensors(pending.result(), lambda t: t.to(device, non_blocking=True))

    def _make(self, step: int) -> StepBatch:
        batch = step_batch(self._context, step, is_even=self._is_even)
        # A GPU fetches from pinned memory while it computes.
        return on_tensors(batch, Tensor.pin_memory) if self._context.device.type == "cuda" else batch
