"""Truncated singular value decomposition of sparse matrices, the same on every call."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.sparse import csr_array
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from commbert.errors import DataError

Floats = NDArray[np.float64]

_RANK_TOLERANCE = 1e-6
"""Singular values below this share of the largest are none: they are roots of eigenvalues, which are exact to about
1e-16 of the largest times the root of the size."""
_NOISE = 1e-6
"""A row that keeps less than this share of its length in the leading dimensions has no direction there but rounding."""


@dataclass(frozen=True)
class Factors:
    """The leading singular vectors and values of a matrix A, largest first: A V = U S."""

    left: Floats
    """[rows, k] U."""
    values: Floats
    """[k] S."""
    right: Floats
    """[columns, k] V."""
    explained: float
    """Share of the squared Frobenius norm of A that the k values hold."""


def truncated_svd(matrix: csr_array, dims: int, *, seed: int) -> Factors:
    """Return the ``dims`` leading singular vectors of a matrix, or all there are.

    Memory: 8 (4 dims + 1) bytes for each row or column, whichever are fewer, and 16 dims for each of the others. The
    number of threads of the linear algebra library may change the last bits; stages run it with one.

    Args:
        matrix: float64.
        dims: Wanted dimensions, k.
        seed: Draws the start vector of the Lanczos process (ARPACK; Lehoucq et al. 1998, doi:10.1137/1.9780898719628).

    Returns:
        At most ``dims`` dimensions; the largest entry of each left vector is positive.

    Raises:
        DataError: If the Lanczos process does not converge.
    """
    rows, columns = matrix.shape
    total = float(matrix.power(2).sum())
    if not total:
        return Factors(np.empty((rows, 0)), np.empty(0), np.empty((columns, 0)), 1.0)
    is_tall = rows >= columns
    tall = matrix if is_tall else csr_array(matrix.T)
    narrow = _leading_right(tall, dims, seed)
    # What lies along the narrow side's basis, decomposed once more: the values come at full precision.
    wide, values, turn = np.linalg.svd(tall @ narrow, full_matrices=False)
    keep = values > _RANK_TOLERANCE * values[0]
    wide, values, narrow = wide[:, keep], values[keep], (narrow @ turn.T)[:, keep]
    left, right = (wide, narrow) if is_tall else (narrow, wide)
    sign = np.sign(left[np.abs(left).argmax(0), np.arange(left.shape[1])])
    return Factors(left * sign, values, right * sign, float((values**2).sum() / total))


def _leading_right(tall: csr_array, dims: int, seed: int) -> Floats:
    """Return [columns, k] an orthonormal basis of the leading right singular vectors of a matrix of more rows."""
    n = tall.shape[1]
    if n <= 2 * dims + 1:
        # The Lanczos process keeps so many vectors that the whole problem is no larger.
        return np.asarray(eigh((tall.T @ tall).toarray())[1][:, -min(dims, n) :])
    start = np.random.default_rng([seed, n]).standard_normal(n)
    transposed = csr_array(tall.T)
    gram = LinearOperator((n, n), matvec=lambda x: transposed @ (tall @ x), dtype=np.float64)
    try:
        _, vectors = eigsh(gram, k=dims, v0=start, maxiter=20 * n)
    except ArpackNoConvergence as error:
        raise DataError(
            f"baselines.dims: the decomposition to {dims} dimensions does not converge. Lower it."
        ) from error
    return np.asarray(vectors)


def unit_rows(rows: Floats, norms: Floats) -> NDArray[np.float32]:
    """Return the rows at length 1; rows of 0 stay, and rows that are rounding noise become 0.

    Args:
        rows: [n, k].
        norms: [n] what each row's length would be with all dimensions, or the longest it may be.
    """
    length = np.linalg.norm(rows, axis=1)
    is_known = length > _NOISE * norms
    out = np.divide(rows, length[:, None], out=np.zeros_like(rows), where=is_known[:, None])
    return np.asarray(out, np.float32)
