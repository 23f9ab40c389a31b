import numpy as np
import pytest
import torch

from commbert import tables
from commbert.evaluation import functions, retrieval
from commbert.evaluation.functions import (
    FunctionTexts,
    brief_ranks,
    read_function_texts,
    same_function_partners,
    without_name,
)
from commbert.known import pair_keys

torch.set_num_threads(1)
NOTHING = np.empty(0, np.uint64)


def write_functions(path, places, **texts):
    """Write the table corpus/functions of (file_id, first_line, last_line)."""
    columns = {"function_id": list(range(len(places)))}
    columns |= {name: [p[i] for p in places] for i, name in enumerate(("file_id", "first_line", "last_line"))}
    columns |= {name: texts.get(name, [f"{name}{i}" for i in range(len(places))]) for name in ("name", "brief", "code")}
    tables.write(path, tables.FUNCTIONS, columns, provenance={})
    return path


def write_lines(path, rows):
    """Write the table pairs/heldout_lines of (file_id, line_no, words)."""
    words = [np.array(r[2], np.uint32) for r in rows]
    columns = {"file_id": [r[0] for r in rows], "line_no": [r[1] for r in rows]}
    columns["word_ids"] = tables.list_column(tables.LINE_WORDS, "word_ids", words)
    tables.write(path, tables.LINE_WORDS, columns, provenance={})
    return path


def as_dict(partners):
    return {int(q): p.tolist() for q, p in zip(partners.query, partners.partners, strict=True)}


def find(tmp_path, places, rows, *, in_split=(True,) * 40, usable=(True,) * 100, known=NOTHING, **changes):
    at = write_functions(tmp_path / "f.parquet", places), write_lines(tmp_path / "l.parquet", rows)
    found = same_function_partners(*at, np.array(in_split), np.array(usable), known, **{"seed": 1, **changes})
    return as_dict(found)


LINES = [(0, 1, [0, 1]), (0, 3, [2, 3]), (0, 4, [4, 5]), (1, 2, [6, 7])]


def test_partners_are_the_words_between_first_and_last_line(tmp_path):
    assert find(tmp_path, [(0, 3, 4)], LINES) == {2: [3, 4, 5], 3: [2, 4, 5], 4: [2, 3, 5], 5: [2, 3, 4]}
    assert find(tmp_path, [(0, 2, 3)], LINES) == {2: [3], 3: [2]}
    assert find(tmp_path, [(0, 4, 900), (1, 1, 1)], LINES) == {4: [5], 5: [4]}
    assert find(tmp_path, [(2, 1, 9)], LINES) == {}
    assert find(tmp_path, [], LINES) == {}


def test_partners_of_nested_functions_are_those_of_both(tmp_path):
    assert find(tmp_path, [(0, 1, 4), (0, 3, 3)], LINES) == find(tmp_path, [(0, 1, 4)], LINES)


def test_known_pairs_and_keywords_are_no_partners(tmp_path):
    usable = np.ones(100, bool)
    usable[4] = False
    known = pair_keys(np.array([2]), np.array([3]))
    assert find(tmp_path, [(0, 3, 4)], LINES, usable=usable, known=known) == {2: [5], 3: [5], 5: [2, 3]}


def test_functions_of_other_splits_count_for_nothing(tmp_path):
    assert find(tmp_path, [(0, 1, 9), (1, 1, 9)], LINES, in_split=(False, True)) == {6: [7], 7: [6]}


def corpus(seed=2, n_functions=200):
    rng = np.random.default_rng(seed)
    rows = [
        (f, line, np.unique(rng.integers(0, 100, rng.integers(2, 9))).tolist())
        for f in range(40)
        for line in range(1, 60)
        if rng.random() < 0.6
    ]
    first = rng.integers(1, 55, n_functions)
    last = first + rng.integers(0, 8, n_functions)
    return sorted(zip(rng.integers(0, 40, n_functions).tolist(), first.tolist(), last.tolist(), strict=True)), rows


@pytest.mark.parametrize("at_once", [1, 50, 2**21])
def test_partners_are_those_collected_function_by_function(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(functions, "_WORDS_AT_ONCE", at_once)
    monkeypatch.setattr(retrieval, "_PAIRS_AT_ONCE", at_once)
    rng = np.random.default_rng(4)
    places, rows = corpus()
    in_split, usable = rng.random(40) < 0.3, rng.random(100) < 0.8
    known = np.unique(pair_keys(*rng.integers(0, 100, (2, 1500))))
    expected = {}
    for file_id, first, last in places:
        words = {w for f, line, of in rows if f == file_id and first <= line <= last for w in of if usable[w]}
        for w in words if in_split[file_id] else ():
            expected.setdefault(w, set()).update(words - {w})
    known_pairs = {(int(k) >> 32, int(k) & 0xFFFFFFFF) for k in known}
    novel = {
        w: sorted(o for o in others if (min(w, o), max(w, o)) not in known_pairs) for w, others in expected.items()
    }
    found = find(tmp_path, places, rows, in_split=in_split, usable=usable, known=known)
    assert found == {w: others for w, others in novel.items() if others}
    assert sum(map(len, found.values())) > 1000


@pytest.mark.parametrize("at_once", [1, 2**21])
def test_a_function_of_many_words_gives_as_many_as_are_allowed(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(functions, "_WORDS_AT_ONCE", at_once)
    rows = [(0, k, [2 * k, 2 * k + 1]) for k in range(1, 20)] + [(1, k, [60 + 2 * k, 61 + 2 * k]) for k in range(1, 4)]
    found = find(tmp_path, [(0, 1, 99), (1, 1, 99)], rows, max_words=10)
    assert len([w for w in found if w < 60]) == 10
    assert sorted(w for w in found if w >= 60) == list(range(62, 68))
    assert all(len(others) == (9 if w < 60 else 5) for w, others in found.items())


def test_the_draw_of_words_follows_the_seed_and_nothing_else(tmp_path):
    places, rows = corpus()
    drawn = [find(tmp_path, places, rows, max_words=5, seed=seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_each_function_draws_its_own_words(tmp_path):
    words = list(range(40))
    one = find(tmp_path, [(0, 1, 1)], [(0, 1, words)], max_words=5)
    two = find(tmp_path, [(0, 1, 1), (0, 1, 1)], [(0, 1, words)], max_words=5)
    assert len(one) == 5 < len(two)


# -- Briefs ------------------------------------------------------------------------------------------------------------


def texts(n, names=None):
    ids = np.arange(n)
    return FunctionTexts(ids, ids // 2, names or [f"f{i}" for i in ids], [f"b{i}" for i in ids], [f"c{i}" for i in ids])


def embedding(briefs, codes):
    """Return an embedder of the texts b0, b1, ... and c0, c1, ... by rows of vectors."""

    def embed(asked):
        rows = [(briefs if t[0] == "b" else codes)[int(t[1:])] for t in asked]
        return torch.nn.functional.normalize(torch.stack(rows), dim=-1)

    return embed


def unit(n, seed, h=4):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, h)).astype(np.float32))


@pytest.mark.parametrize("at_once", [7, 256])
def test_the_rank_of_a_function_is_its_place_in_the_sorted_list(monkeypatch, at_once):
    monkeypatch.setattr(functions, "_QUERIES_AT_ONCE", at_once)
    briefs, codes = unit(60, 0), unit(60, 1)
    codes[:30] = briefs[:30] + codes[:30]
    found = brief_ranks(embedding(briefs, codes), texts(60), seed=1)
    normal = [torch.nn.functional.normalize(x, dim=-1).double() for x in (briefs, codes)]
    order = [sorted(range(60), key=lambda c, q=q: -float(normal[0][q] @ normal[1][c])).index(q) + 1 for q in range(60)]
    assert found.reciprocal_rank == pytest.approx([1 / rank for rank in order], rel=1e-12)
    assert found.function_id.tolist() == list(range(60))
    assert found.file_id.tolist() == [i // 2 for i in range(60)]
    assert found.n_candidates == 60
    assert len(set(order)) > 10


def test_a_model_that_gives_every_text_one_vector_finds_nothing():
    found = brief_ranks(lambda asked: torch.ones(len(asked), 1), texts(101), seed=1)
    assert found.reciprocal_rank.tolist() == [1 / 51] * 101


def test_chance_is_the_mean_of_a_random_order():
    found = brief_ranks(lambda asked: torch.ones(len(asked), 1), texts(4), seed=1)
    assert found.chance == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)


def test_candidates_are_drawn_by_the_seed_and_asked_each_once():
    asked = []

    def embed(many):
        asked.append(list(many))
        return torch.ones(len(many), 1)

    drawn = [brief_ranks(embed, texts(50), seed=seed, max_candidates=20).function_id.tolist() for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] == sorted(set(drawn[0]))
    assert asked[:2] == [[f"c{i}" for i in drawn[0]], [f"b{i}" for i in drawn[0]]]


def test_names_are_hidden_unless_asked_for():
    code = ["int get(int a)\nreturn get(a) + get_it(a) + budget", "def run():\npass"]
    rows = FunctionTexts(np.arange(2), np.arange(2), ["A::get", "run"], ["Gets.", "Runs."], code)
    seen = []

    def embed(asked):
        seen.append(list(asked))
        return torch.eye(2)[: len(asked)]

    brief_ranks(embed, rows, seed=1)
    brief_ranks(embed, rows, seed=1, hide_names=False)
    assert seen[0] == ["int f(int a)\nreturn f(a) + get_it(a) + budget", "def f():\npass"]
    assert seen[1] == seen[3] == ["Gets.", "Runs."]
    assert seen[2] == code


@pytest.mark.parametrize(
    ("name", "code", "hidden"),
    [
        ("A<T>::get", "T A<T>::get() { return get(); }", "T A<T>::f() { return f(); }"),
        ("run<std::vector<int>>", "run<std::vector<int>>(x)", "f<std::vector<int>>(x)"),
        ("A::~A", "A::~A() {}", "f::~f() {}"),
        ("operator()", "int operator()(int a)", "int operator()(int a)"),
        ("A::operator bool", "A::operator bool()", "A::operator bool()"),
        ("get_operator", "get_operator()", "f()"),
        ("größe", "größe(größer)", "f(größer)"),
        ("", "x", "x"),
    ],
)
def test_the_name_in_the_code_becomes_f(name, code, hidden):
    assert without_name(code, name) == hidden


def test_no_function_gives_no_rank():
    found = brief_ranks(lambda asked: torch.ones(len(asked), 1), texts(0), seed=1)
    assert len(found.reciprocal_rank) == 0
    assert np.isnan(found.chance)


def test_functions_with_a_brief_and_code_of_the_split_are_read(tmp_path):
    places = [(0, 1, 2), (1, 1, 2), (1, 3, 4), (1, 5, 6)]
    path = write_functions(tmp_path / "t.parquet", places, brief=["a", "b", "", "d"], code=["w", "x", "y", ""])
    found = read_function_texts(path, np.array([False, True]))
    assert (found.function_id.tolist(), found.file_id.tolist()) == ([1], [1])
    assert (found.name, found.brief, found.code) == (["name1"], ["b"], ["x"])
    assert len(read_function_texts(path, np.array([False, False]))) == 0
