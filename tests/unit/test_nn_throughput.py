import time

import pytest
import torch

from commbert.nn import throughput
from commbert.nn.throughput import matmul_speed

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """Products that take as long as a test says."""
    seconds = iter([9.0, 0.08, 0.05, 0.06, 0.07, 1.0])
    monkeypatch.setattr(throughput, "_timed", lambda *_: next(seconds))


def test_the_speed_is_that_of_the_fastest_product_after_a_first_one_that_does_not_count(clock):
    found = matmul_speed(CPU, "fp32")
    # 0.08, 0.05, 0.06: another one of 0.05 s would pass the 0.2 s that are allowed.
    assert found.tflops == pytest.approx(2 * 1024**3 / 0.05 / 1e12)
    assert found.how.startswith("fastest of 3 product(s) of 1024 x 1024 matrices in fp32 on cpu, ")


def test_one_product_is_made_however_long_it_takes(monkeypatch):
    monkeypatch.setattr(throughput, "_timed", lambda *_: 3.0)
    assert "fastest of 1 product" in matmul_speed(CPU, "fp32").how


def test_measuring_ends_soon_and_finds_a_speed_of_this_world():
    began = time.monotonic()
    found = matmul_speed(CPU, "fp32")
    assert time.monotonic() - began < 5.0  # 0.3 s on an idle machine
    assert 1e-4 < found.tflops < 1e3


def test_measuring_leaves_the_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    matmul_speed(CPU, "fp32")
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_products_are_in_the_precision_of_the_run(monkeypatch, precision, dtype):
    seen = []
    monkeypatch.setattr(throughput, "_timed", lambda left, right, _: seen.append((left.dtype, right.dtype)) or 1.0)
    matmul_speed(CPU, precision)
    assert set(seen) == {(dtype, dtype)}


@pytest.mark.parametrize(("free_gib", "size"), [(100, 8192), (4, 8192), (3.9, 7168), (1, 4096), (0.01, 1024)])
def test_the_products_of_a_gpu_fit_into_a_quarter_of_its_free_memory(monkeypatch, free_gib, size):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int(free_gib * 2**30), 2**40))
    assert throughput._size(torch.device("cuda")) == size
    assert 4 * 4 * size**2 <= max(free_gib * 2**30 / 4, 4 * 4 * 1024**2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_faster_than_any_cpu_and_gives_the_memory_back():
    device = torch.device("cuda")
    before = torch.cuda.memory_allocated(device)
    assert matmul_speed(device, "fp32").tflops > 1.0
    assert torch.cuda.memory_allocated(device) == before
    assert torch.cuda.max_memory_allocated(device) == before
