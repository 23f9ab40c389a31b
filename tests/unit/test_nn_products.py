import pytest
import torch
from torch.nn import functional

from commbert.errors import SettingsError
from commbert.nn import devices, products
from commbert.nn.devices import choose_precision
from commbert.nn.products import Linear, choose_products, linear, linear_gradients, precise_linear

torch.set_num_threads(1)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _choice(monkeypatch):
    """Put the process's choice back."""
    monkeypatch.setattr(products, "_chosen", products._chosen)


def _case(n_tokens=37, n_in=24, n_out=40, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = ((n_tokens, n_in), (n_out, n_in), (n_out,), (n_tokens, n_out))
    return [torch.randn(*s, generator=generator, dtype=dtype) for s in shapes]


def _with_gradients(function, x, weight, bias, of_out):
    leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
    out = function(*leaves)
    out.backward(of_out)
    return [out.detach(), *(t.grad for t in leaves)]


@pytest.mark.parametrize("who", ["onednn", "torch"])
@pytest.mark.parametrize("n_tokens", [1, 2, 37, 300])
def test_a_product_and_its_gradients_are_those_of_torch_whoever_makes_them(who, n_tokens):
    case = _case(n_tokens)
    choose_products(who)
    found = _with_gradients(linear, *case)
    exact = _with_gradients(functional.linear, *(t.double() for t in case))
    for a, b in zip(found, exact, strict=True):
        assert a.dtype == torch.float32
        assert float((a - b).norm() / b.norm()) < 2e-6


@pytest.mark.parametrize("who", ["onednn", "torch"])
@pytest.mark.parametrize("wants", [(True, True), (True, False), (False, True)])
def test_the_gradients_alone_are_those_of_the_product_and_only_those_wanted(who, wants):
    x, weight, bias, of_out = _case()
    choose_products(who)
    _, of_x, of_weight, _ = _with_gradients(functional.linear, x, weight, bias, of_out)
    found = linear_gradients(of_out, x, weight, wants=wants)
    for got, expected, wanted in zip(found, (of_x, of_weight), wants, strict=True):
        assert (got is not None) == wanted
        assert got is None or torch.allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_onednn_gives_the_same_bits_again():
    choose_products("onednn")
    first, again = (_with_gradients(linear, *_case(500, 64, 96)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_rows_that_do_not_lie_together_give_the_same_product():
    choose_products("onednn")
    x, weight, bias, _ = _case()
    apart = torch.stack([x, x], 1)[:, 0]
    assert not apart.is_contiguous()
    assert torch.equal(linear(apart, weight, bias), linear(x, weight, bias))


def test_float64_and_no_rows_go_to_torch(monkeypatch):
    choose_products("onednn")
    monkeypatch.setattr(functional, "conv2d", None)
    x, weight, bias, _ = _case(dtype=torch.float64)
    assert torch.equal(linear(x, weight, bias), functional.linear(x, weight, bias))
    assert linear(*(t.float() for t in (x[:0], weight, bias))).shape == (0, 40)


def test_a_product_of_bf16_factors_can_be_had_in_float32():
    choose_products("onednn")
    x, weight, *_ = (t.bfloat16() for t in _case())
    assert linear(x, weight).dtype == torch.bfloat16
    assert precise_linear(x, weight).dtype == torch.float32
    assert linear_gradients(linear(x, weight), x, weight, wants=(False, True))[1].dtype == torch.float32


def test_a_module_goes_through_the_door(monkeypatch):
    monkeypatch.setattr(products, "linear", lambda *_: torch.full((1, 3), 7.0))
    assert Linear(2, 3)(torch.zeros(1, 2)).tolist() == [[7.0] * 3]


@pytest.mark.parametrize(("is_amd", "has_mkl", "expected"), [(1, 1, "onednn"), (0, 1, "torch"), (1, 0, "torch")])
def test_automatic_is_onednn_where_an_amd_processor_would_run_mkl(monkeypatch, is_amd, has_mkl, expected):
    monkeypatch.setattr(products, "is_amd_cpu", lambda: bool(is_amd))
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: bool(has_mkl))
    monkeypatch.setattr(products, "_is_onednn_better", products._is_onednn_better.__wrapped__)
    assert choose_products("auto")[0] == expected


def test_what_was_asked_for_is_taken():
    assert choose_products("torch") == ("torch", "as set")
    assert choose_products("onednn") == ("onednn", "as set")


@pytest.mark.parametrize(
    ("info", "is_amd", "has_bf16"),
    [
        ("vendor_id\t: AuthenticAMD\nflags\t\t: fpu avx2 avx512_bf16\n", True, True),
        ("vendor_id\t: GenuineIntel\nflags\t\t: fpu amx_bf16\n", False, True),
        ("vendor_id\t: GenuineIntel\nflags\t\t: fpu avx2 avx512f\n", False, False),
        ("Features\t: fp asimd bf16\n", False, True),
        ("", False, False),
    ],
)
def test_a_processor_is_known_by_what_linux_says(monkeypatch, info, is_amd, has_bf16):
    monkeypatch.setattr(devices, "_cpu_info", lambda: info)
    assert (devices.is_amd_cpu(), devices.has_bf16_cpu()) == (is_amd, has_bf16)


def test_bf16_is_refused_on_a_cpu_without_it_and_never_taken_by_itself(monkeypatch):
    monkeypatch.setattr(devices, "_cpu_info", lambda: "flags : avx2")
    with pytest.raises(SettingsError, match="no bf16 hardware"):
        choose_precision("bf16", CPU)
    monkeypatch.setattr(devices, "_cpu_info", lambda: "flags : avx512_bf16")
    assert choose_precision("bf16", CPU) == ("bf16", "as set")
    precision, reason = choose_precision("auto", CPU)
    assert precision == "fp32"
    assert "training.precision" in reason
