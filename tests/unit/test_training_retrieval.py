import math

import numpy as np
import pytest
import torch

from commbert.known import pair_keys
from commbert.training.retrieval import choose_retrieval

torch.set_num_threads(1)
NOTHING = np.empty(0, np.uint64)
N_WORDS = 60


def random_case(seed=0):
    """Return pairs of words 0 to 39 of 60, which words take part, and the known pairs."""
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 40, (2, 50))
    return a, b, rng.random(N_WORDS) < 0.8, np.unique(pair_keys(*rng.integers(0, N_WORDS, (2, 400))))


def chosen(case, *, n_queries=1000, n_candidates=1000, seed=0):
    return choose_retrieval(*case, n_queries=n_queries, n_candidates=n_candidates, seed=seed)


def partners_of(case):
    """Return in plain loops who looks for whom."""
    a, b, usable, known = case
    found: dict[int, set[int]] = {}
    for x, y in zip(a.tolist(), b.tolist(), strict=True):
        if x != y and usable[x] and usable[y] and pair_keys(x, y) not in known:
            found.setdefault(x, set()).add(y)
            found.setdefault(y, set()).add(x)
    return found


def as_dict(task):
    return {int(q): set(task.candidate[w].tolist()) for q, w in zip(task.query, task.wanted, strict=True)}


def test_each_word_of_a_novel_pair_looks_for_the_other():
    case = random_case()
    assert as_dict(chosen(case)) == partners_of(case)
    assert len(partners_of(case)) > 10


def test_a_pair_that_shares_a_training_line_is_not_looked_for_in_either_direction():
    a, b = np.array([0, 2]), np.array([1, 3])
    task = chosen((a, b, np.ones(5, np.bool_), pair_keys(np.array([1]), np.array([0]))))
    assert as_dict(task) == {2: {3}, 3: {2}}


def test_a_word_does_not_look_for_itself():
    task = chosen((np.array([1, 2]), np.array([1, 3]), np.ones(5, np.bool_), NOTHING))
    assert as_dict(task) == {2: {3}, 3: {2}}


def test_candidates_are_all_usable_words_where_there_is_room():
    case = random_case()
    assert chosen(case).candidate.tolist() == np.flatnonzero(case[2]).tolist()


def test_capped_candidates_are_the_partners_and_a_draw_of_other_usable_words():
    case = random_case()
    everyone = partners_of(case)
    task = chosen(case, n_queries=5, n_candidates=30)
    assert len(task) == 5
    assert as_dict(task) == {q: everyone[q] for q in task.query.tolist()}
    assert len(task.candidate) == 30
    assert (np.diff(task.candidate) > 0).all()
    assert case[2][task.candidate].all()


def test_partners_are_candidates_even_beyond_the_cap():
    case = random_case()
    everyone = partners_of(case)
    assert set(chosen(case, n_candidates=2).candidate.tolist()) == set().union(*everyone.values())


def test_the_seed_draws_queries_and_candidates():
    draws = [chosen(random_case(), n_queries=8, n_candidates=40, seed=s) for s in (1, 1, 2)]
    assert [d.query.tolist() for d in draws[:1]] == [d.query.tolist() for d in draws[1:2]]
    assert draws[0].candidate.tolist() == draws[1].candidate.tolist() != draws[2].candidate.tolist()
    assert draws[0].query.tolist() != draws[2].query.tolist()


def test_no_pair_is_no_query():
    nobody = np.empty(0, np.int64)
    assert len(chosen((nobody, nobody, np.ones(5, np.bool_), NOTHING))) == 0


def oracle(case, task, vector):
    """Rank in plain loops: among the candidates, without the query and its known partners, ties half."""
    known = case[3]
    total = 0.0
    for q in task.query.tolist():
        others = [c for c in task.candidate.tolist() if c != q and pair_keys(q, c) not in known]
        best = math.inf
        for p in partners_of(case)[q]:
            score = float(vector[q] @ vector[p])
            above = sum(float(vector[q] @ vector[c]) > score for c in others)
            beside = sum(float(vector[q] @ vector[c]) == score for c in others if c != p)
            best = min(best, 1 + above + beside / 2)
        total += 1 / best
    return total / len(task.query)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_mean_reciprocal_rank_is_that_of_plain_loops(seed):
    case = random_case(seed)
    task = chosen(case, n_queries=12, n_candidates=35, seed=seed)
    # Small whole numbers: exact products, many ties.
    vector = np.random.default_rng(seed).integers(-2, 3, (N_WORDS, 4)).astype(np.float32)
    rows = torch.from_numpy(vector)
    found = task.mean_reciprocal_rank(rows[task.query], rows[task.candidate])
    assert found == pytest.approx(oracle(case, task, vector), rel=1e-12)
    assert 0.02 < found < 0.9


def test_a_vector_that_is_none_is_told():
    task = chosen(random_case())
    rows = torch.ones(N_WORDS, 2)
    rows[task.candidate[3], 1] = torch.nan
    assert math.isnan(task.mean_reciprocal_rank(rows[task.query], rows[task.candidate]))


def test_the_words_to_encode_are_queries_and_candidates():
    task = chosen(random_case(), n_queries=4, n_candidates=20)
    assert task.words.tolist() == sorted({*task.query.tolist(), *task.candidate.tolist()})
