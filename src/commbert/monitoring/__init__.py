"""What a stage ran on and what it took: devices, seconds, memory, energy. Missing sensors give None and a reason.

``machine`` says what is there, ``measured`` takes time and memory of a block, ``monitored`` samples all sensors beside
it: GPUs (``nvml``), CPU packages (``rapl``) and processes (``host``), summed up by ``totals``.
"""

from commbert.monitoring.hardware import gpu_count, machine, usable_threads
from commbert.monitoring.sampler import Monitor, monitored
from commbert.monitoring.usage import Usage, measured

__all__ = ["Monitor", "Usage", "gpu_count", "machine", "measured", "monitored", "usable_threads"]
