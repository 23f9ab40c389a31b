"""A library that answers as ``pynvml`` does, for GPUs that a test describes, and that can be broken call by call."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

UNINITIALIZED, NOT_SUPPORTED, NO_PERMISSION, DRIVER_NOT_LOADED, FUNCTION_NOT_FOUND = 1, 3, 4, 9, 13
GPU_IS_LOST, UNKNOWN = 15, 999
NAMES = {1: "Uninitialized", 3: "Not Supported", 4: "Insufficient Permissions", 9: "Driver Not Loaded"}
NAMES |= {13: "Function Not Found", 15: "GPU is lost", 999: "Unknown Error"}
SENSORS = (
    *("nvmlDeviceGetUtilizationRates", "nvmlDeviceGetMemoryInfo", "nvmlDeviceGetPowerUsage"),
    *("nvmlDeviceGetTemperature", "nvmlDeviceGetClockInfo", "nvmlDeviceGetCurrentClocksEventReasons"),
    "nvmlDeviceGetTotalEnergyConsumption",
)
OPENING = ("nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetUUID", "nvmlDeviceGetName")


class NVMLError(Exception):
    def __init__(self, value):
        super().__init__(value)
        self.value = value

    def __str__(self):
        return NAMES[self.value]


@dataclass
class FakeGpu:
    uuid: str = "GPU-aaaa"
    name: Any = "Fake 100"
    total_bytes: int = 80 * 2**30
    used_bytes: int = 2**30
    utilization: int = 50
    power_mw: int = 100_000
    temperature: int = 40
    clocks: dict[int, int] = field(default_factory=lambda: {1: 1500, 2: 2600})
    reasons: int = 0
    energy_mj: int = 1_000_000
    fails: dict[str, int] = field(default_factory=dict)
    """Error codes of this GPU's functions."""


class FakeNvml:
    NVMLError = NVMLError

    def __init__(self, *gpus, slices=()):
        self.gpus, self.slices = list(gpus), dict(slices)
        self.fails: dict[str, int] = {}
        """Error codes by function."""
        self.dies_at: int | None = None
        """Number of the call from which on the driver is gone."""
        self.calls: list[str] = []
        self.n_open = 0
        for name in (*SENSORS, *OPENING, "nvmlShutdown", "nvmlDeviceGetHandleByUUID"):
            setattr(self, name, self._guarded(name))
        self.nvmlDeviceGetDeviceHandleFromMigDeviceHandle = self._guarded("nvmlDeviceGetParent")

    def load(self):
        return self

    def _guarded(self, name):
        def call(*arguments):
            self.calls.append(name)
            if self.dies_at is not None and len(self.calls) >= self.dies_at:
                self.n_open = 0
                raise NVMLError(DRIVER_NOT_LOADED)
            of_gpu = arguments[0].fails.get(name) if arguments and isinstance(arguments[0], FakeGpu) else None
            code = self.fails.get(name) or of_gpu
            if code:
                raise NVMLError(code)
            if name != "nvmlInit" and not self.n_open:
                raise NVMLError(UNINITIALIZED)
            return getattr(self, f"_{name}")(*arguments)

        return call

    def _nvmlInit(self):
        self.n_open += 1

    def _nvmlShutdown(self):
        self.n_open -= 1

    def _nvmlDeviceGetCount(self):
        return len(self.gpus)

    def _nvmlDeviceGetHandleByIndex(self, index):
        return self.gpus[index]

    def _nvmlDeviceGetHandleByUUID(self, uuid):
        if uuid not in self.slices:
            raise NVMLError(NOT_SUPPORTED)
        return self.slices[uuid]

    def _nvmlDeviceGetParent(self, parent_index):
        return self.gpus[parent_index]

    def _nvmlDeviceGetUUID(self, gpu):
        return gpu.uuid

    def _nvmlDeviceGetName(self, gpu):
        return gpu.name

    def _nvmlDeviceGetUtilizationRates(self, gpu):
        return SimpleNamespace(gpu=gpu.utilization, memory=7)

    def _nvmlDeviceGetMemoryInfo(self, gpu):
        return SimpleNamespace(total=gpu.total_bytes, used=gpu.used_bytes)

    def _nvmlDeviceGetPowerUsage(self, gpu):
        return gpu.power_mw

    def _nvmlDeviceGetTemperature(self, gpu, sensor):
        assert sensor == 0
        return gpu.temperature

    def _nvmlDeviceGetClockInfo(self, gpu, kind):
        return gpu.clocks[kind]

    def _nvmlDeviceGetCurrentClocksEventReasons(self, gpu):
        return gpu.reasons

    def _nvmlDeviceGetTotalEnergyConsumption(self, gpu):
        return gpu.energy_mj


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now
