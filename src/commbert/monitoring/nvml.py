"""NVIDIA GPUs by NVML. Every call may fail at any time, and the driver may go away and come back.

What fails is None with a reason; nothing raises. The library is imported only where there is a driver: 50 ms that data
stages need not spend.

Reference: NVML API reference manual; the names of the functions and the bits of the clocks' event reasons are its.
"""

import importlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from commbert.monitoring.visible import Selection, select

RETRY_S = 30.0
"""Between two attempts to find a driver or a GPU that went away: nvmlInit takes up to seconds."""
EVENT_REASONS = {
    0x001: "gpu_idle",
    0x002: "applications_clocks_setting",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal_slowdown",
    0x040: "hw_thermal_slowdown",
    0x080: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
    0x200: "board_limit",
    0x400: "reliability",
}
"""Bits of nvmlDeviceGetCurrentClocksEventReasons."""
NOT_THROTTLED = frozenset({"gpu_idle", "applications_clocks_setting", "display_clock_setting"})
"""Reasons for a lower clock that are no limit met at work: nothing to do, or as somebody has set it."""
WHOLE_GPU = "a GPU counts whole: what other processes and users do on it is in its figures"
WHOLE_SLICE = "CUDA_VISIBLE_DEVICES names slices of GPUs (MIG): their whole GPUs are measured"
OTHER_ORDER = (
    "CUDA_VISIBLE_DEVICES gives numbers of unlike GPUs: without CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA may count them in "
    "another order than the one measured"
)
NO_DRIVER = "no NVIDIA driver on this machine"
_UNINITIALIZED, _DRIVER_NOT_LOADED, _FUNCTION_NOT_FOUND = 1, 9, 13
_GPU_IS_LOST, _RESET_REQUIRED, _VERSION_MISMATCH = 15, 16, 18
_GONE = (_UNINITIALIZED, _DRIVER_NOT_LOADED, _VERSION_MISMATCH)
"""Error codes that no call after them will survive, before the driver is opened anew."""
_GPU_GONE = (_GPU_IS_LOST, _RESET_REQUIRED)
"""Those that no call to this GPU will survive."""
_TEMPERATURE_GPU, _CLOCK_SM, _CLOCK_MEM = 0, 1, 2
_GIBI = 2**30
_DEVICES = ("/dev/nvidiactl", "/dev/dxg", "/dev/nvhost-gpu", "/dev/nvgpu")
"""One of them is there where Linux has a driver: plain, Windows' own under WSL, Jetson."""


@dataclass(frozen=True)
class _Sensor:
    columns: tuple[str, ...]
    functions: tuple[str, ...]
    """The first one that library and driver know is called."""
    values: Callable[[Any], tuple[Any, ...]]
    arguments: tuple[int, ...] = ()


def decode_reasons(bits: int) -> tuple[str, ...]:
    """Return the names of the event reasons in a bit mask; unknown bits by their number."""
    ones = [1 << i for i in range(bits.bit_length()) if bits >> i & 1]
    return tuple(EVENT_REASONS.get(bit, f"bit_{bit:#x}") for bit in ones)


_SENSORS = (
    _Sensor(
        ("gpu_utilization_pct", "memory_utilization_pct"),
        ("nvmlDeviceGetUtilizationRates",),
        lambda u: (float(u.gpu), float(u.memory)),
    ),
    _Sensor(("memory_used_gib",), ("nvmlDeviceGetMemoryInfo",), lambda m: (m.used / _GIBI,)),
    _Sensor(("power_w",), ("nvmlDeviceGetPowerUsage",), lambda mw: (mw / 1000.0,)),
    _Sensor(
        ("temperature_c",),
        ("nvmlDeviceGetTemperature", "nvmlDeviceGetTemperatureV"),
        lambda c: (float(c),),
        (_TEMPERATURE_GPU,),
    ),
    _Sensor(("sm_clock_mhz",), ("nvmlDeviceGetClockInfo",), lambda mhz: (float(mhz),), (_CLOCK_SM,)),
    _Sensor(("memory_clock_mhz",), ("nvmlDeviceGetClockInfo",), lambda mhz: (float(mhz),), (_CLOCK_MEM,)),
    _Sensor(
        ("throttle_reasons",),
        ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"),
        lambda bits: (decode_reasons(bits),),
    ),
    _Sensor(("energy_counter_mj",), ("nvmlDeviceGetTotalEnergyConsumption",), lambda mj: (int(mj),)),
)
COLUMNS = tuple(name for sensor in _SENSORS for name in sensor.columns)


class _Failed(Exception):  # noqa: N818  (no error of the stage: it ends in a reason beside a None)
    def __init__(self, reason: str, code: int | None = None) -> None:
        super().__init__(reason)
        self.reason, self.code = reason, code


@dataclass
class Gpu:
    """A GPU that was found; ``index`` is the driver's number."""

    index: int
    uuid: str | None
    name: str | None
    memory_gib: float | None
    handle: Any = None
    """None: it was there, and is not any more."""


@dataclass(frozen=True)
class Reading:
    """What the sensors said at one time: values by column, and reasons for those that are None."""

    values: dict[str, Any]
    missing: dict[str, str] = field(default_factory=dict)


def load_library() -> Any:
    """Return the library, or None where there is no driver that it could speak to."""
    if sys.platform == "linux" and not any(Path(device).exists() for device in _DEVICES):
        return None
    return importlib.import_module("pynvml")


class Driver:
    """The GPUs that may be used, read one time after the other.

    Args:
        load: Returns the library (``pynvml`` or a fake one), or None where there is no driver.
        visible: CUDA_VISIBLE_DEVICES; None: all GPUs.
        order: CUDA_DEVICE_ORDER.
        clock: Seconds; for the time between two attempts.
    """

    def __init__(
        self,
        load: Callable[[], Any],
        *,
        visible: str | None = None,
        order: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.gpus: list[Gpu] = []
        """In the order of their numbers; one that was found once stays."""
        self.reason: str | None = None
        """Why there is no GPU, or none now."""
        self.notes: list[str] = []
        self._visible, self._order, self._clock = visible, order, clock
        self._is_open, self._retry_at = False, math.inf
        self._library: Any = None
        try:
            self._library = load()
        except ImportError as error:
            self.reason = f"nvidia-ml-py cannot be imported: {error}"
            return
        if self._library is None:
            self.reason = NO_DRIVER
        else:
            self._open()

    def __enter__(self) -> "Driver":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self) -> list[tuple[Gpu, Reading]]:
        """Return a reading of each GPU; of one that cannot be read, only the reasons."""
        if self._clock() >= self._retry_at:
            self.close()
            self._open()
        return [(gpu, self._read_one(gpu)) for gpu in self.gpus]

    def close(self) -> None:
        """Let go of the driver."""
        if self._is_open:
            self._is_open = False
            with _ignored(self._library):
                self._library.nvmlShutdown()

    def _read_one(self, gpu: Gpu) -> Reading:
        values: dict[str, Any] = dict.fromkeys(COLUMNS)
        missing: dict[str, str] = {}
        for sensor in _SENSORS:
            try:
                if not self._is_open or gpu.handle is None:
                    raise _Failed(self.reason or "not found since the driver came back")
                raw = self._call_first(sensor.functions, gpu.handle, *sensor.arguments)
                values.update(zip(sensor.columns, sensor.values(raw), strict=True))
            except _Failed as failed:
                missing.update(dict.fromkeys(sensor.columns, failed.reason))
                if failed.code in _GONE:
                    self._lose(failed.reason)
                elif failed.code in _GPU_GONE and self._retry_at == math.inf:
                    self._retry_at = self._clock() + RETRY_S
        return Reading(values, missing)

    def _open(self) -> None:
        """Find the GPUs, or those of them that are there again."""
        self._retry_at = math.inf
        try:
            self._call("nvmlInit")
            self._is_open, self.reason = True, None
            there = [gpu for i in range(self._call("nvmlDeviceGetCount")) if (gpu := self._found(i))]
        except _Failed as failed:
            self._lose(failed.reason)
            return
        chosen = select([gpu.uuid for gpu in there], self._visible, self._parent_of)
        self._take([there[i] for i in sorted(chosen.positions)])
        self._explain(chosen, len(there), len({gpu.name for gpu in there}) > 1)

    def _take(self, usable: list[Gpu]) -> None:
        now = {gpu.uuid or gpu.index: gpu for gpu in usable}
        for gpu in self.gpus:
            again = now.pop(gpu.uuid or gpu.index, None)
            gpu.handle = again.handle if again else None
        self.gpus += now.values()

    def _explain(self, chosen: Selection, n_there: int, has_unlike: bool) -> None:
        if not self.gpus:
            self.reason = "CUDA_VISIBLE_DEVICES names no GPU" if n_there else "the driver knows no GPU"
            return
        self._note(WHOLE_GPU)
        if chosen.by_slice:
            self._note(WHOLE_SLICE)
        if chosen.by_number and self._order != "PCI_BUS_ID" and has_unlike:
            self._note(OTHER_ORDER)

    def _note(self, words: str) -> None:
        if words not in self.notes:
            self.notes.append(words)

    def _lose(self, reason: str) -> None:
        self.close()
        self.reason, self._retry_at = f"driver: {reason}", self._clock() + RETRY_S

    def _found(self, index: int) -> Gpu | None:
        """Return a GPU; None for one that this process may not open."""
        try:
            handle = self._call("nvmlDeviceGetHandleByIndex", index)
        except _Failed as failed:
            if failed.code in _GONE:
                raise
            self._note(f"GPU {index} is left out: {failed.reason}")
            return None
        uuid, name = (self._text(f, handle) for f in ("nvmlDeviceGetUUID", "nvmlDeviceGetName"))
        try:
            memory_gib = round(self._call("nvmlDeviceGetMemoryInfo", handle).total / _GIBI, 1)
        except _Failed:
            memory_gib = None  # the sensor of the used memory gives the reason
        return Gpu(index, uuid, name, memory_gib, handle)

    def _text(self, function: str, handle: Any) -> str | None:
        try:
            found = self._call(function, handle)
        except _Failed as failed:
            if failed.code in _GONE:
                raise
            return None
        return found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found)

    def _parent_of(self, slice_uuid: str) -> str | None:
        try:
            handle = self._call("nvmlDeviceGetHandleByUUID", slice_uuid)
            return self._text("nvmlDeviceGetUUID", self._call("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", handle))
        except _Failed:
            return None

    def _call_first(self, functions: tuple[str, ...], *arguments: Any) -> Any:
        for name in functions[:-1]:
            try:
                return self._call(name, *arguments)
            except _Failed as failed:
                if failed.code != _FUNCTION_NOT_FOUND:
                    raise
        return self._call(functions[-1], *arguments)

    def _call(self, name: str, *arguments: Any) -> Any:
        function = getattr(self._library, name, None)
        if function is None:
            raise _Failed(f"{name}: not in this nvidia-ml-py", _FUNCTION_NOT_FOUND)
        try:
            return function(*arguments)
        except self._library.NVMLError as error:
            raise _Failed(str(error), error.value) from error


@contextmanager
def _ignored(library: Any) -> Iterator[None]:
    """Let a driver that has gone refuse to be shut down."""
    try:
        yield
    except library.NVMLError:
        return


def usable_driver(clock: Callable[[], float] = time.monotonic) -> Driver:
    """Return the driver with the GPUs that the environment leaves to this process."""
    env = os.environ
    return Driver(
        load_library, visible=env.get("CUDA_VISIBLE_DEVICES"), order=env.get("CUDA_DEVICE_ORDER"), clock=clock
    )
