import numpy as np
import pytest
import torch

from commbert.nn.ranking import ranks_of_wanted

torch.set_num_threads(1)


def nothing(n):
    return lambda _: np.zeros(n, np.bool_)


def brute(scores, wanted, out):
    """Count in plain loops who stands above and who beside."""
    found = []
    for w in wanted:
        above = beside = 0
        for i, score in enumerate(scores):
            if not out[i] and i != w:
                above += score > scores[w]
                beside += score == scores[w]
        found.append(1 + above + beside / 2)
    return sorted(found)


@pytest.mark.parametrize("block", [1, 3, 256])
def test_ranks_are_those_of_counting(block):
    rng = np.random.default_rng(0)
    # Small whole numbers: exact products, many ties.
    queries, candidates = (rng.integers(-2, 3, (n, 3)).astype(np.float32) for n in (8, 40))
    out = rng.random((8, 40)) < 0.3
    wanted = [rng.choice(np.flatnonzero(~o), rng.integers(1, 6), replace=False) for o in out]
    found = ranks_of_wanted(
        torch.from_numpy(queries), torch.from_numpy(candidates), wanted, lambda i: out[i], block=block
    )
    expected = [brute(q @ candidates.T, w, o) for q, w, o in zip(queries, wanted, out, strict=True)]
    assert [r.tolist() for r in found] == expected


def test_of_equal_scores_the_wanted_one_stands_in_the_middle():
    [ranks] = ranks_of_wanted(torch.ones(1, 2), torch.ones(101, 2), [np.array([7])], nothing(101))
    assert ranks.tolist() == [51.0]


def test_ranks_of_several_partners_ascend():
    candidates = torch.tensor([[0.9], [0.1], [0.5]])
    [ranks] = ranks_of_wanted(torch.ones(1, 1), candidates, [np.array([1, 0])], nothing(3))
    assert ranks.tolist() == [1.0, 3.0]
