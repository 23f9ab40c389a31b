import math
import sys

import pytest

from commbert.monitoring import hardware, nvml
from commbert.monitoring.nvml import COLUMNS, RETRY_S, Driver
from commbert.monitoring.visible import Selection, select
from fake_nvml import (
    DRIVER_NOT_LOADED,
    FUNCTION_NOT_FOUND,
    GPU_IS_LOST,
    NO_PERMISSION,
    NOT_SUPPORTED,
    OPENING,
    SENSORS,
    UNKNOWN,
    Clock,
    FakeGpu,
    FakeNvml,
)

COLUMNS_OF = {
    "nvmlDeviceGetUtilizationRates": {"gpu_utilization_pct", "memory_utilization_pct"},
    "nvmlDeviceGetMemoryInfo": {"memory_used_gib"},
    "nvmlDeviceGetPowerUsage": {"power_w"},
    "nvmlDeviceGetTemperature": {"temperature_c"},
    "nvmlDeviceGetClockInfo": {"sm_clock_mhz", "memory_clock_mhz"},
    "nvmlDeviceGetCurrentClocksEventReasons": {"throttle_reasons"},
    "nvmlDeviceGetTotalEnergyConsumption": {"energy_counter_mj"},
}


@pytest.fixture
def clock():
    return Clock()


def only(driver):
    ((_, reading),) = driver.read()
    return reading


def test_every_sensor_is_read_in_the_units_of_its_name():
    gpu = FakeGpu(used_bytes=3 * 2**30, utilization=93, power_mw=412_500, temperature=71, reasons=0x24, energy_mj=7)
    reading = only(Driver(FakeNvml(gpu).load))
    assert reading.values == {
        "gpu_utilization_pct": 93.0,
        "memory_utilization_pct": 7.0,
        "memory_used_gib": 3.0,
        "power_w": 412.5,
        "temperature_c": 71.0,
        "sm_clock_mhz": 1500.0,
        "memory_clock_mhz": 2600.0,
        "throttle_reasons": ("sw_power_cap", "sw_thermal_slowdown"),
        "energy_counter_mj": 7,
    }
    assert reading.missing == {}


def test_a_machine_without_driver_has_no_gpu_and_says_so():
    driver = Driver(lambda: None)
    assert (driver.gpus, driver.read(), driver.reason) == ([], [], "no NVIDIA driver on this machine")
    driver.close()


def test_a_machine_without_driver_never_imports_the_library(monkeypatch):
    monkeypatch.setattr(nvml, "_DEVICES", ("/nowhere/nvidiactl",))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setitem(sys.modules, "pynvml", None)  # an import would raise
    assert nvml.load_library() is None


def test_where_there_is_a_driver_the_library_is_pynvml(monkeypatch, tmp_path):
    monkeypatch.setattr(nvml, "_DEVICES", (str(tmp_path),))
    assert nvml.load_library().__name__ == "pynvml"


def test_without_the_library_the_reason_names_it():
    def load():
        raise ImportError("No module named 'pynvml'")

    assert Driver(load).reason == "nvidia-ml-py cannot be imported: No module named 'pynvml'"


def test_a_driver_without_gpus_says_so():
    driver = Driver(FakeNvml().load)
    assert (driver.read(), driver.reason) == ([], "the driver knows no GPU")


@pytest.mark.parametrize("function", SENSORS)
@pytest.mark.parametrize("code", [NOT_SUPPORTED, NO_PERMISSION, UNKNOWN])
def test_one_missing_sensor_leaves_the_others(function, code):
    library = FakeNvml(FakeGpu())
    driver = Driver(library.load)
    library.fails[function] = code
    reading = only(driver)
    assert {name for name in COLUMNS if reading.values[name] is None} == COLUMNS_OF[function] == set(reading.missing)
    assert set(reading.missing.values()) == {str(library.NVMLError(code))}
    library.fails.clear()
    assert only(driver).missing == {}


def test_a_broken_gpu_leaves_the_others():
    library = FakeNvml(FakeGpu("GPU-a", fails=dict.fromkeys(SENSORS, GPU_IS_LOST)), FakeGpu("GPU-b"))
    driver = Driver(library.load)
    (_, broken), (_, whole) = driver.read()
    assert set(broken.values.values()) == {None}
    assert set(broken.missing.values()) == {"GPU is lost"}
    assert whole.missing == {}


def test_a_lost_gpu_is_looked_for_again_and_found(clock):
    library = FakeNvml(FakeGpu())
    driver = Driver(library.load, clock=clock)
    handle = driver.gpus[0].handle
    handle.fails = dict.fromkeys(SENSORS, GPU_IS_LOST)
    library.gpus = [FakeGpu()]  # a new handle after its reset
    assert only(driver).values["power_w"] is None
    clock.now += RETRY_S
    assert only(driver).values["power_w"] == 100.0
    assert library.n_open == 1


@pytest.mark.parametrize("name", ["nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetTemperature"])
def test_an_older_or_newer_driver_is_asked_by_the_other_name(name):
    library = FakeNvml(FakeGpu(reasons=0x8, temperature=55))
    others = {
        "nvmlDeviceGetCurrentClocksEventReasons": "nvmlDeviceGetCurrentClocksThrottleReasons",
        "nvmlDeviceGetTemperature": "nvmlDeviceGetTemperatureV",
    }
    setattr(library, others[name], getattr(library, f"_{name}"))
    library.fails[name] = FUNCTION_NOT_FOUND
    reading = only(Driver(library.load))
    assert reading.missing == {}
    assert (reading.values["throttle_reasons"], reading.values["temperature_c"]) == (("hw_slowdown",), 55.0)
    delattr(library, name)
    assert only(Driver(library.load)).missing == {}


def test_a_function_that_the_library_lacks_altogether_is_a_reason():
    library = FakeNvml(FakeGpu())
    del library.nvmlDeviceGetTotalEnergyConsumption
    missing = only(Driver(library.load)).missing
    assert missing == {"energy_counter_mj": "nvmlDeviceGetTotalEnergyConsumption: not in this nvidia-ml-py"}


def test_reasons_are_named_by_their_bits():
    assert nvml.decode_reasons(0) == ()
    assert nvml.decode_reasons(0x1 | 0x8 | 0x40 | 1 << 20) == (
        "gpu_idle",
        "hw_slowdown",
        "hw_thermal_slowdown",
        "bit_0x100000",
    )


def test_the_names_of_the_bits_are_those_of_the_library():
    pynvml = pytest.importorskip("pynvml")
    for bit, name in nvml.EVENT_REASONS.items():
        camel = "".join(part.capitalize() for part in name.split("_"))
        assert getattr(pynvml, f"nvmlClocksThrottleReason{camel}") == bit


# The driver goes away.


@pytest.mark.parametrize("call", range(1, 32))
def test_a_driver_that_is_lost_at_any_call_leaves_nulls_and_comes_back(clock, call):
    library = FakeNvml(FakeGpu("GPU-a"), FakeGpu("GPU-b"))
    library.dies_at = call
    driver = Driver(library.load, clock=clock)
    readings = driver.read()
    lost = len(library.calls) >= call
    assert lost == (driver.reason is not None)
    for _, reading in readings:
        assert set(reading.missing) == {name for name in COLUMNS if reading.values[name] is None}
        assert all("Driver Not Loaded" in reason for reason in reading.missing.values())
    library.dies_at, n_calls = None, len(library.calls)
    if lost:
        assert all(set(r.values.values()) == {None} for _, r in driver.read())
        assert len(library.calls) == n_calls, "a driver that is gone is not asked before its time"
    clock.now += RETRY_S
    assert [reading.missing for _, reading in driver.read()] == [{}, {}]
    assert [gpu.index for gpu in driver.gpus] == [0, 1]
    assert driver.reason is None
    driver.close()
    assert library.n_open == 0


def test_the_last_call_before_a_driver_is_lost_was_tried():
    library = FakeNvml(FakeGpu("GPU-a"), FakeGpu("GPU-b"))
    Driver(library.load).read()
    assert len(library.calls) < 31, "the range above covers every call"


@pytest.mark.parametrize("function", OPENING[:3])
def test_a_driver_that_does_not_open_is_a_reason(function, clock):
    library = FakeNvml(FakeGpu())
    library.fails[function] = DRIVER_NOT_LOADED
    driver = Driver(library.load, clock=clock)
    assert (driver.gpus, driver.reason) == ([], "driver: Driver Not Loaded")
    library.fails.clear()
    assert driver.read() == []
    clock.now += RETRY_S
    assert len(driver.read()) == 1


def test_a_gpu_that_is_not_there_any_more_stays_as_a_gap_and_the_others_keep_their_place(clock):
    library = FakeNvml(FakeGpu("GPU-a"), FakeGpu("GPU-b", power_mw=7000))
    driver = Driver(library.load, clock=clock)
    library.fails["nvmlDeviceGetPowerUsage"] = DRIVER_NOT_LOADED
    driver.read()
    library.fails.clear()
    del library.gpus[0]
    clock.now += RETRY_S
    (first, gone), (second, there) = driver.read()
    assert (first.uuid, second.uuid) == ("GPU-a", "GPU-b")
    assert set(gone.missing.values()) == {"not found since the driver came back"}
    assert there.values["power_w"] == 7.0


def test_a_gpu_that_may_not_be_opened_is_named_and_left_out():
    library = FakeNvml(FakeGpu("GPU-a"), FakeGpu("GPU-b"))
    inner = library.nvmlDeviceGetHandleByIndex

    def handle(index):
        if index == 0:
            raise library.NVMLError(NO_PERMISSION)
        return inner(index)

    library.nvmlDeviceGetHandleByIndex = handle
    driver = Driver(library.load)
    assert [gpu.index for gpu in driver.gpus] == [1]
    assert "GPU 0 is left out: Insufficient Permissions" in driver.notes


@pytest.mark.parametrize("function", ["nvmlDeviceGetUUID", "nvmlDeviceGetName", "nvmlDeviceGetMemoryInfo"])
def test_a_gpu_that_does_not_tell_all_about_itself_is_measured_all_the_same(function):
    library = FakeNvml(FakeGpu(fails={function: NOT_SUPPORTED}))
    driver = Driver(library.load)
    (gpu,) = driver.gpus
    field = {"nvmlDeviceGetUUID": "uuid", "nvmlDeviceGetName": "name", "nvmlDeviceGetMemoryInfo": "memory_gib"}[
        function
    ]
    assert getattr(gpu, field) is None
    assert only(driver).values["power_w"] == 100.0


def test_a_name_in_bytes_is_decoded():
    assert Driver(FakeNvml(FakeGpu(name=b"Old \xff")).load).gpus[0].name == "Old \ufffd"


def test_a_driver_that_is_left_is_closed_once():
    library = FakeNvml(FakeGpu())
    with Driver(library.load) as driver:
        driver.close()
    assert library.n_open == 0
    assert library.calls.count("nvmlShutdown") == 1


# Which GPUs.

UUIDS = ["GPU-aa11", "GPU-aa22", "GPU-bb33", None]


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, (0, 1, 2, 3)),
        ("", ()),
        ("0", (0,)),
        ("2,0", (2, 0)),
        (" 1 , 3 ", (1, 3)),
        ("-1", ()),
        ("0,-1,1", (0,)),
        ("0,9,1", (0,)),
        ("NoDevFiles", ()),
        ("1,1", ()),
        ("0,1,1", ()),
        ("9" * 5000, ()),
        ("1," + "9" * 5000, (1,)),
        ("GPU-bb33", (2,)),
        ("GPU-bb,GPU-aa1", (2, 0)),
        ("GPU-aa", ()),
        ("GPU-cc,0", ()),
        ("٣", ()),
        ("MIG-s0,MIG-s1", (2,)),
        ("MIG-none,0", ()),
        ("MIG-GPU-aa22/3/0", (1,)),
    ],
)
def test_visible_gpus_are_those_that_cuda_would_use(visible, expected):
    parents = {"MIG-s0": "GPU-bb33", "MIG-s1": "GPU-bb33"}
    assert select(UUIDS, visible, parents.get).positions == expected


def test_how_they_were_named_is_told():
    assert select(UUIDS, "0", {}.get) == Selection((0,), by_number=True)
    assert select(UUIDS, "MIG-GPU-aa22/3/0", {}.get) == Selection((1,), by_slice=True)
    assert select(UUIDS, "GPU-bb33", {}.get) == Selection((2,))


def test_only_visible_gpus_are_measured_in_the_order_of_the_driver():
    library = FakeNvml(*(FakeGpu(f"GPU-{i}") for i in range(4)))
    assert [gpu.index for gpu in Driver(library.load, visible="3,1").gpus] == [1, 3]
    assert Driver(library.load, visible="").reason == "CUDA_VISIBLE_DEVICES names no GPU"


def test_a_slice_is_measured_by_its_whole_gpu_and_that_is_said():
    library = FakeNvml(FakeGpu("GPU-a"), FakeGpu("GPU-b"), slices={"MIG-x": 1})
    driver = Driver(library.load, visible="MIG-x")
    assert [gpu.uuid for gpu in driver.gpus] == ["GPU-b"]
    assert driver.notes == [nvml.WHOLE_GPU, nvml.WHOLE_SLICE]


@pytest.mark.parametrize(("order", "is_said"), [(None, True), ("FASTEST_FIRST", True), ("PCI_BUS_ID", False)])
def test_numbers_of_unlike_gpus_in_the_order_of_cuda_are_a_doubt_that_is_said(order, is_said):
    library = FakeNvml(FakeGpu("GPU-a", "Small"), FakeGpu("GPU-b", "Large"))
    assert (nvml.OTHER_ORDER in Driver(library.load, visible="0", order=order).notes) == is_said
    assert nvml.OTHER_ORDER not in Driver(library.load, visible="GPU-a", order=order).notes


def test_the_count_of_gpus_is_of_those_that_may_be_used_and_the_machine_has_all(monkeypatch):
    library = FakeNvml(FakeGpu("GPU-a"), FakeGpu("GPU-b"))
    monkeypatch.setattr(hardware, "load_library", library.load)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert hardware.gpu_count() == 1
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert hardware.gpu_count() == 2
    assert hardware.machine()["gpus"] == [{"name": "Fake 100", "memory_gib": 80.0}] * 2
    assert library.n_open == 0


def test_the_driver_is_not_asked_again_while_all_is_well(clock):
    library = FakeNvml(FakeGpu())
    driver = Driver(library.load, clock=clock)
    clock.now = math.nextafter(1e9, 0)
    driver.read()
    assert library.calls.count("nvmlInit") == 1
