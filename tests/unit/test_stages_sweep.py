"""The table of ablations and its picture, from small made-up evaluations."""

import html
import json
import re
from pathlib import Path

import numpy as np
import pytest
from markdown_it import MarkdownIt

from commbert.artifacts import write_json
from commbert.errors import CommbertError
from commbert.evaluation.scores import RATIOS, Column, difference, read_scores, write_scores
from commbert.reporting.sweeping import DOMAIN, FIGURES, GENERAL, SweptFigure, cell, gains, pareto_figure, pareto_front
from commbert.settings.evaluation import EvaluationSettings
from commbert.stages import sweep

SETTINGS = EvaluationSettings(bootstrap=100)
N = 60


def _scores(quality, seed, *, without=()):
    """Return scores whose figures are the better the higher the quality is."""
    rng = np.random.default_rng(seed)
    items, cluster = np.arange(N), np.arange(N) // 2
    scores = {}
    for rung in ("frequency_matched", "lexical"):
        for side, shift in (("positive", quality), ("negative", 0.0)):
            value = rng.normal(size=N) + shift
            scores[f"{rung}_novel:{side}"] = Column(items, cluster, value, np.ones(N))
    for figure in FIGURES:
        if figure.key == GENERAL:
            grade = rng.random(N)
            scores[figure.key] = Column(items, items, grade - (quality - 1) * rng.random(N), grade)
        elif not figure.key.startswith("auc_"):
            sign = 1 if figure.higher_is_better else -1
            weight = np.full(N, 2.0) if figure.key in RATIOS else np.ones(N)
            scores[figure.key] = Column(items, cluster, 5 + sign * quality + 0.1 * rng.random(N), weight)
    return {name: column for name, column in scores.items() if name.partition("_novel:")[0] not in without}


def _evaluation(folder: Path, scores, trained_s=1.0) -> Path:
    write_scores(folder.joinpath("validation.scores.parquet"), scores, {})
    write_json(folder / "validation.json", {"inputs": folder.name})
    write_json(folder / "training.json", {"trained_s": trained_s})
    return folder / "validation.json"


def _row(folder: Path, quality, seeds=(1, 2, 3), changes=None, **options):
    found = [
        _evaluation(folder / str(s), _scores(quality, s, **options), trained_s=10.0 + i) for i, s in enumerate(seeds)
    ]
    return sweep.SweptRun(changes or {}, found, [p.with_name("training.json") for p in found])


@pytest.fixture
def swept(tmp_path):
    """Return a function that compares rows, and its outputs."""
    tmp_path.joinpath("reports/figures").mkdir(parents=True)
    out = tmp_path / "reports"
    outputs = sweep.SweepOutputs(out / "s.md", out / "s.json", out / "s.html", out / "figures" / "p.svg")
    base = _evaluation(tmp_path / "base", _scores(0.5, 50))

    def run(rows, averages=None, others=None, reference="final"):
        made = {"base": base} if others is None else others
        sweep.run(SETTINGS, reference=reference, runs=rows, others=made, averages=averages or {}, outputs=outputs)
        return json.loads(outputs.json.read_text(encoding="utf-8"))

    run.outputs, run.base = outputs, base
    return run


def test_a_row_says_how_its_run_differs_from_the_reference_and_which_is_better(swept, tmp_path):
    rows = {
        "final": _row(tmp_path / "final", 1.0),
        "better": _row(tmp_path / "better", 3.0, seeds=(4, 5, 6), changes={"pairs": {"subsample": None}}),
        "same": _row(tmp_path / "final", 1.0),
    }
    result = swept(rows)
    found = {row["name"]: row for row in result["rows"]}
    assert list(found) == ["final", "better", "same", "base"]
    assert [found[name]["seeds"] for name in found] == [3, 3, 3, 1]
    assert [found[name]["trained_s"] for name in found] == [11.0, 11.0, 11.0, None]
    assert found["better"]["changes"] == '{"pairs": {"subsample": null}}'
    for figure in FIGURES:
        assert found["final"]["cells"][figure.key]["difference"] is None
        assert found["final"]["cells"][figure.key]["verdict"] == ""
        same = found["same"]["cells"][figure.key]
        assert (same["difference"]["value"], same["verdict"]) == (0.0, "equal")
        if figure.key != GENERAL:
            assert found["better"]["cells"][figure.key]["verdict"] == "better"
            assert found["base"]["cells"][figure.key]["verdict"] == "worse"
    assert found["better"]["cells"][GENERAL]["verdict"] == "worse"


def test_a_difference_of_one_seed_is_that_of_the_scores(swept, tmp_path):
    rows = {"final": _row(tmp_path / "final", 1.0, seeds=(1,)), "other": _row(tmp_path / "other", 1.2, seeds=(9,))}
    row = swept(rows)["rows"][1]
    ours, theirs = (
        read_scores(r.evaluations[0].with_suffix(".scores.parquet")) for r in (rows["other"], rows["final"])
    )
    for figure in FIGURES:
        expected = difference(ours, theirs, figure.key, n_resamples=SETTINGS.bootstrap, seed=SETTINGS.seed)
        found = row["cells"][figure.key]["difference"]
        assert (found.pop("seed_sd"), found.pop("n_seeds")) == (None, 1)
        assert found == pytest.approx(vars(expected), rel=1e-12)


def test_a_row_of_one_seed_is_compared_with_the_reference_of_that_seed(swept, tmp_path):
    rows = {"final": _row(tmp_path / "final", 1.0), "other": _row(tmp_path / "other", 1.2, seeds=(9,))}
    row = swept(rows)["rows"][1]
    assert row["seeds"] == 1
    alone = swept({"final": _row(tmp_path / "alone", 1.0, seeds=(1,)), "other": rows["other"]})["rows"][1]
    assert row["cells"] == alone["cells"]
    assert row["cells"]["term_mrr"]["difference"]["n_seeds"] == 1


def test_the_mean_over_seeds_is_shown_in_every_form(swept, tmp_path):
    result = swept({"final": _row(tmp_path / "final", 1.0)})
    values = [
        read_scores(tmp_path / f"final/{s}/validation.scores.parquet")["term_mrr"].value.mean() for s in (1, 2, 3)
    ]
    assert result["rows"][0]["cells"]["term_mrr"]["found"]["value"] == pytest.approx(np.mean(values), rel=1e-12)
    for path in (swept.outputs.markdown, swept.outputs.html):
        assert f"{np.mean(values):.3f}" in path.read_text(encoding="utf-8")


def test_a_run_that_lacks_a_figure_has_an_empty_cell_and_no_point(swept, tmp_path):
    rows = {
        "final": _row(tmp_path / "final", 1.0),
        "no_mlm": _row(tmp_path / "no_mlm", 2.0, without=("mlm_loss_per_char", "frequency_matched")),
    }
    result = swept(rows)
    lacking = result["rows"][1]["cells"]["mlm_loss_per_char"]
    assert (lacking["found"], lacking["difference"], lacking["verdict"]) == (None, None, "")
    assert [point["name"] for point in result["points"]] == ["final", "base"]
    [line] = [
        x for x in swept.outputs.markdown.read_text(encoding="utf-8").splitlines() if x.startswith("| no&#95;mlm")
    ]
    assert line.split(" | ")[3] == line.split(" | ")[10] == "–"


def test_a_reference_that_lacks_a_figure_leaves_the_others_without_a_difference(swept, tmp_path):
    rows = {
        "final": _row(tmp_path / "final", 1.0, without=("brief_mrr",)),
        "other": _row(tmp_path / "other", 2.0),
    }
    found = swept(rows)["rows"][1]["cells"]["brief_mrr"]
    assert found["found"]["n_seeds"] == 3
    assert (found["difference"], found["verdict"]) == (None, "")


def test_a_figure_that_one_seed_lacks_is_not_told_of_the_others(swept, tmp_path):
    broken = _row(tmp_path / "other", 2.0)
    scores = _scores(2.0, 2)
    scores[GENERAL] = Column(*(getattr(scores[GENERAL], f) for f in ("item", "cluster")), np.ones(N), np.arange(N) / N)
    _evaluation(tmp_path / "other" / "2", scores)  # a collapsed model: its correlation is no number
    result = swept({"final": _row(tmp_path / "final", 1.0), "other": broken})
    cells = result["rows"][1]["cells"]
    assert (cells[GENERAL]["found"], cells[GENERAL]["difference"]) == (None, None)
    assert cells["term_mrr"]["found"]["n_seeds"] == 3
    assert [point["name"] for point in result["points"]] == ["final", "base"]


def test_one_seed_is_enough(swept, tmp_path):
    result = swept({"final": _row(tmp_path / "final", 1.0, seeds=(17,))})
    assert result["rows"][0]["cells"]["term_mrr"]["found"]["seed_sd"] is None
    assert {p["name"]: p for p in result["points"]}["base"] == {
        "name": "base",
        "domain_gain": 0.0,
        "general_loss": 0.0,
        "seeds": None,
    }


def test_the_curve_is_in_the_order_of_shares_and_without_points_that_lack_a_figure(swept, tmp_path):
    averages = {
        1.0: _evaluation(tmp_path / "a1", _scores(0.5, 50)),
        0.2: _evaluation(tmp_path / "a02", _scores(0.9, 3)),
        0.5: _evaluation(tmp_path / "a05", _scores(0.9, 3, without=(GENERAL,))),
    }
    result = swept({"final": _row(tmp_path / "final", 1.0)}, averages=averages)
    assert [point["share"] for point in result["curve"]] == [0.2, 1.0]
    assert (result["curve"][1]["domain_gain"], result["curve"][1]["general_loss"]) == (0.0, 0.0)
    assert "| 1.0 | +0.000 | +0.000 |" in swept.outputs.markdown.read_text(encoding="utf-8")
    assert "averaged with the start model" in swept.outputs.pareto.read_text(encoding="utf-8")


def test_a_sweep_repeated_gives_the_same_bytes(swept, tmp_path):
    rows = {"final": _row(tmp_path / "final", 1.0), "other": _row(tmp_path / "other", 1.2)}
    files = vars(swept.outputs).values()
    swept(rows)
    first = [path.read_bytes() for path in files]
    swept(rows)
    assert [path.read_bytes() for path in files] == first


def test_the_inputs_tell_of_every_evaluation_that_was_read(swept, tmp_path):
    rows, averages = {"final": _row(tmp_path / "final", 1.0)}, {0.2: _evaluation(tmp_path / "a", _scores(1.0, 3))}
    before = swept(rows, averages)["inputs"]
    for path in (rows["final"].evaluations[2], averages[0.2], swept.base):
        text = path.read_text(encoding="utf-8")
        write_json(path, {"inputs": "others"})
        assert swept(rows, averages)["inputs"] != before
        path.write_text(text, encoding="utf-8")
    assert swept(rows, averages)["inputs"] == before


HOSTILE = "<script>alert(1)</script> | [x](javascript:y) **b** `c` \x1b[31m {{ 7 * 7 }}"


def test_names_and_changes_of_runs_are_text_in_every_form(swept, tmp_path):
    rows = {
        HOSTILE: _row(tmp_path / "a", 1.0, changes={"pairs": {HOSTILE: HOSTILE}}),
        "mlm_only": _row(tmp_path / "b", 2),
    }
    swept(rows, reference=HOSTILE, averages={0.5: swept.base})
    markdown = swept.outputs.markdown.read_text(encoding="utf-8")
    page = swept.outputs.html.read_text(encoding="utf-8")
    shown = MarkdownIt("commonmark").enable("table").render(markdown)
    for text in (shown, page, swept.outputs.pareto.read_text(encoding="utf-8")):
        assert "<script" not in text
    assert "\x1b" not in markdown + page
    assert not re.search(r"<(a|b|code)\b", shown)
    assert [len(re.findall("<td", row)) for row in re.findall("<tr>(.*?)</tr>", shown, re.DOTALL)][1:4] == [14, 14, 14]
    assert "alert(1)" in html.unescape(shown)
    assert "{{ 7 * 7 }}" in html.unescape(shown)


def test_a_name_with_underscores_is_shown_as_it_is(swept, tmp_path):
    swept({"base_head": _row(tmp_path / "a", 1.0)}, reference="base_head")
    shown = MarkdownIt("commonmark").enable("table").render(swept.outputs.markdown.read_text(encoding="utf-8"))
    assert "Every run against <strong>base_head</strong>, on the validation split" in shown


def test_the_page_loads_nothing(swept, tmp_path):
    swept({"final": _row(tmp_path / "a", 1.0)})
    page = swept.outputs.html.read_text(encoding="utf-8")
    assert 'src="data:image/svg+xml;base64,' in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "![Pareto](figures/p.svg)" in swept.outputs.markdown.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["validation.scores.parquet", "validation.json", "training.json"])
def test_a_missing_file_is_named_in_one_line_and_nothing_is_written(swept, tmp_path, name):
    rows = {"final": _row(tmp_path / "final", 1.0)}
    (tmp_path / "final" / "2" / name).unlink()
    with pytest.raises(CommbertError, match=re.escape(str(tmp_path / "final" / "2" / name))) as caught:
        swept(rows)
    assert len(str(caught.value).splitlines()) == 1
    assert not any(path.exists() for path in vars(swept.outputs).values())


@pytest.mark.parametrize(
    ("low", "value", "high", "higher", "verdict"),
    [
        (0.1, 0.2, 0.3, True, "better"),
        (-0.3, -0.2, -0.1, True, "worse"),
        (0.1, 0.2, 0.3, False, "worse"),
        (-0.3, -0.2, -0.1, False, "better"),
        (-0.1, 0.2, 0.3, True, "equal"),
        (0.0, 0.2, 0.3, True, "equal"),
        (-0.3, -0.2, 0.0, False, "equal"),
    ],
)
def test_a_verdict_needs_an_interval_without_0(low, value, high, higher, verdict):
    figure = SweptFigure("k", "K", higher_is_better=higher)
    assert cell({"value": 1.0}, {"low": low, "value": value, "high": high}, figure)["verdict"] == verdict


def test_gains_by_hand():
    figures = {DOMAIN[0]: {"value": 0.8}, DOMAIN[1]: {"value": 0.3}, GENERAL: {"value": 0.5}, "mlm": None}
    base = {DOMAIN[0]: 0.6, DOMAIN[1]: 0.2, GENERAL: 0.7}
    assert gains(figures, base) == pytest.approx({"domain_gain": 0.15, "general_loss": 0.2})
    for key in base:
        assert gains({**figures, key: None}, base) is None
        assert gains(figures, {k: v for k, v in base.items() if k != key}) is None


def _brute_front(points):
    def beaten(p):
        return any(
            q["domain_gain"] >= p["domain_gain"]
            and q["general_loss"] <= p["general_loss"]
            and (q["domain_gain"] > p["domain_gain"] or q["general_loss"] < p["general_loss"])
            for q in points
        )

    return {p["name"] for p in points if not beaten(p)}


@pytest.mark.parametrize("seed", range(20))
def test_the_front_is_that_of_comparing_all_with_all(seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(-3, 4, (12, 2)) / 10  # few values: many ties
    points = [{"name": str(i), "domain_gain": g, "general_loss": x} for i, (g, x) in enumerate(values.tolist())]
    found = pareto_front(points)
    assert set(found) == _brute_front(points)
    assert len(found) == len(set(found))


def test_no_points_have_no_front_and_a_picture():
    assert pareto_front([]) == []
    assert "<svg" in pareto_figure([], [], "final")


def test_the_picture_is_the_same_for_the_same_points_and_shows_each_name():
    points = [{"name": f"run_{i}", "domain_gain": 0.1 * i, "general_loss": 0.05 * i} for i in range(4)]
    curve = [{"share": s, "domain_gain": 0.1 * s, "general_loss": 0.0} for s in (0.0, 0.5)]
    picture = pareto_figure(points, curve, "run_1")
    assert picture == pareto_figure(points, curve, "run_1")
    assert all(f">run_{i}<" in picture for i in range(4))
    assert picture != pareto_figure(points, curve, "run_2") != pareto_figure(points, [], "run_2")


def test_a_point_that_would_press_all_others_together_is_told_and_not_drawn():
    points = [{"name": f"run-{i}", "domain_gain": 0.1 * i, "general_loss": 0.01 * i} for i in range(8)]
    far = {"name": "far", "domain_gain": -0.2, "general_loss": 0.9}
    told = "too far out to be drawn: far (0.900, -0.200)"
    assert told in pareto_figure([*points, far], [], "run-1")
    assert "too far out" not in pareto_figure([*points, far], [], "far")
    assert "too far out" not in pareto_figure(points, [], "run-1")
    assert "too far out" not in pareto_figure([{**p, "general_loss": 0.0} for p in points[:-1]] + points[-1:], [], "x")


def test_the_labels_of_a_crowd_lie_apart():
    rng = np.random.default_rng(3)
    points = [
        {"name": f"a-long-name-{i}", "domain_gain": g, "general_loss": x}
        for i, (g, x) in enumerate(rng.random((25, 2)))
    ]
    picture = pareto_figure(points, [], "x")
    found = re.findall(r'x="([0-9.-]+)" y="([0-9.-]+)"[^>]*>a-long-name', picture)
    assert len(found) == 25
    places = np.array(found, dtype=float)
    for i, (x, y) in enumerate(places):
        others = np.delete(places, i, axis=0)
        assert not ((abs(others[:, 0] - x) < 20) & (abs(others[:, 1] - y) < 6)).any()
