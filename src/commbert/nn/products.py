"""Products of tokens with weight matrices: one door, so that the fastest library of the machine makes them.

torch's CPU builds give matrix products to MKL, which on AMD processors takes its AVX2 kernels; oneDNN, in the same
build, takes AVX-512, and makes a product twice as fast (measured, in float32, equally exact). It is reached by way of
a 1 x 1 convolution over a row of tokens, which is the same product.
"""

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from commbert.nn.devices import is_amd_cpu

_ONEDNN_TYPES = (torch.float32, torch.bfloat16)
_HALF = (torch.bfloat16, torch.float16)
_chosen = "auto"


def choose_products(wanted: str) -> tuple[str, str]:
    """Choose who makes products on the CPU, ``onednn`` or ``torch`` (what torch takes by itself), and why.

    Args:
        wanted: One of the two, or ``auto``: oneDNN on AMD processors where torch would take MKL.
    """
    global _chosen  # noqa: PLW0603  one choice for the process, as torch's own backend flags are
    _chosen = wanted
    if wanted != "auto":
        return wanted, "as set"
    if _uses_onednn():
        return "onednn", "MKL takes slower kernels on AMD processors"
    return "torch", "what torch takes by itself"


@cache
def _is_onednn_better() -> bool:
    return is_amd_cpu() and torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()


def _uses_onednn() -> bool:
    return _chosen == "onednn" or (_chosen == "auto" and _is_onednn_better())


def _by_onednn(x: Tensor) -> bool:
    return x.device.type == "cpu" and len(x) > 0 and _uses_onednn()


def linear(
    x: Float[Tensor, "t i"], weight: Float[Tensor, "o i"], bias: Float[Tensor, "o"] | None = None
) -> Float[Tensor, "t o"]:
    """Return x weight^T + bias."""
    if not (_by_onednn(x) and x.dtype in _ONEDNN_TYPES and weight.dtype in _ONEDNN_TYPES):
        return functional.linear(x, weight, bias)
    return _row(functional.conv2d(_image(x), weight[:, :, None, None], bias))


def precise_linear(x: Float[Tensor, "t i"], weight: Float[Tensor, "o i"]) -> Float[Tensor, "t o"]:
    """Return x weight^T in float32 or better, whatever the precision of the factors."""
    if x.device.type == "cuda" and x.dtype in _HALF:
        return torch.mm(x, weight.T, out_dtype=torch.float32)
    out = linear(x, weight)
    return out.float() if out.dtype in _HALF else out


def linear_gradients(
    of_out: Float[Tensor, "t o"], x: Float[Tensor, "t i"], weight: Float[Tensor, "o i"], *, wants: tuple[bool, bool]
) -> tuple[Float[Tensor, "t i"] | None, Float[Tensor, "o i"] | None]:
    """Return the gradients of ``x`` and, in float32 or better, of ``weight`` in ``linear``, those that are wanted."""
    if _by_onednn(x) and x.dtype in _ONEDNN_TYPES:
        kernel, images = weight[:, :, None, None], (_image(of_out), _image(x))
        geometry = ([1, 1], [0, 0], [1, 1], False, [0, 0], 1)
        of_x, of_weight, _ = torch.ops.aten.convolution_backward(*images, kernel, None, *geometry, [*wants, False])
        of_x, of_weight = _row(of_x) if wants[0] else None, of_weight[:, :, 0, 0] if wants[1] else None
    else:
        of_x = of_out @ weight if wants[0] else None
        of_weight = None
        if wants[1]:
            of_weight = precise_linear(of_out.T, x.T) if x.device.type == "cuda" else of_out.T @ x
    return of_x, of_weight.float() if of_weight is not None and of_weight.dtype in _HALF else of_weight


def _image(x: Tensor) -> Tensor:
    """See a row of tokens as an image of one line, channels last; nothing is copied."""
    return x.contiguous()[None, None].permute(0, 3, 1, 2)


def _row(image: Tensor) -> Tensor:
    return image.permute(0, 2, 3, 1).flatten(0, 2)


class Linear(nn.Linear):
    """torch's own, through the door."""

    def forward(self, input: Float[Tensor, "t i"]) -> Float[Tensor, "t o"]:  # noqa: A002  torch's name
        """Return input weight^T + bias."""
        return linear(input, self.weight, self.bias)
