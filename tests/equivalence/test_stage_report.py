"""The report of a run that is compared with a model, with vectors and with the frequency rule."""

import html
import json
import re
import shutil
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from commbert import tables
from commbert.artifacts import read_json, write_json
from commbert.baselines.vectors import write_vectors
from commbert.evaluation.scores import difference, read_scores
from commbert.reporting.measured import SYSTEM_FIGURES
from commbert.settings.base import merged
from commbert.settings.config import load
from commbert.settings.evaluation import EvaluationSettings
from commbert.settings.runtime import RuntimeSettings
from commbert.settings.training import TrainingSettings
from commbert.stages import average, evaluate, report, train
from commbert.stages.subjects import FrequencySubject, ModelSubject, VectorsSubject

TRAINING = {
    "max_steps": 4,
    "batch_windows": 8,
    "batch_pairs": 8,
    "micro_batches": 2,
    "validate_every_steps": 2,
    "validation_windows": 8,
    "validation_pairs": 40,
    "optimizer": {"learning_rate": 1.0e-3},
}
EVALUATION = EvaluationSettings(windows=20, retrieval_queries=30, random_pairs=500, bootstrap=100)
OTHERS = ("base", "collapsed", "frequency", "ppmi_svd")


@pytest.fixture(scope="module")
def made(stages, tmp_path_factory):
    """A trained run and the evaluations of all systems, each in a folder of its name."""
    at = tmp_path_factory.mktemp("made")
    train.run(
        TrainingSettings.model_validate(TRAINING),
        RuntimeSettings(device="cpu"),
        data=stages.data,
        model=stages.start,
        corpus=stages.corpus,
        checkpoints=at / "checkpoint",
        best_out=at / "trained" / "best",
        final_out=at / "trained" / "final",
        metrics_out=at / "metrics.jsonl",
        summary_out=at / "training.json",
    )
    average.run(0.0, start=stages.start, trained=[at / "trained" / "final"], out=[at / "model"])
    folder = shutil.copytree(stages.start, at / "collapsed_model")
    weights = load_file(folder / "model.safetensors")
    for name in [n for n in weights if "LayerNorm" in n]:
        weights[name] = torch.full_like(weights[name], float(name.endswith("bias")))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    rows = np.random.default_rng(0).normal(size=(tables.read(stages.evaluation.words, tables.WORDS).num_rows, 8))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    words = {"words": tables.content_digest(stages.evaluation.words)}
    write_vectors(at / "vectors.parquet", rows.astype(np.float32), provenance=words)
    subjects = {
        "final": ModelSubject(at / "model", "mean", True, "cpu"),
        "base": ModelSubject(stages.start, "mean", False, "cpu"),
        "collapsed": ModelSubject(folder, "mean", True, "cpu"),
        "ppmi_svd": VectorsSubject(at / "vectors.parquet"),
        "frequency": FrequencySubject(),
    }
    for name, subject in subjects.items():
        out = at / name
        outputs = {"out": out / "evaluation.json", "scores_out": out / "evaluation.scores.parquet"}
        evaluate.run(EVALUATION, subject=subject, data=stages.evaluation, split="test", **outputs)
    for stage, wall_s in (("train.final", 31.0), ("baseline.ppmi_svd", 7.0), ("ingest", 2.0)):
        record = {"stage": stage, "wall_s": wall_s, "cpu_s": 2 * wall_s, "peak_rss_gib": 1.0, "began_unix_s": 1.0}
        write_json(at / "logs" / f"{stage}.usage.json", record)
    return at


def _report(stages, made, out, *, compare_with=("base", "collapsed"), others=OTHERS):
    data = stages.corpus.parents[1]
    raw = {
        "corpus": {"sources": [{"kind": "path", "name": "tree", "path": "tree"}]},
        "model": {"base": {"kind": "path", "path": "base"}},
        "training": TRAINING,
        "report": {"compare_with": list(compare_with), "systems": ["frequency", "ppmi_svd"]},
        "runs": {"final": {}, "collapsed": {}},
    }
    inputs = report.ReportInputs(
        ingest=stages.corpus,
        words=data / "corpus" / "words.json",
        receipts=data / "tokenizer" / "receipts.json",
        windows=data / "windows" / "summary.json",
        pairs=data / "pairs" / "summary.json",
        training=made / "training.json",
        metrics=made / "metrics.jsonl",
        model=made / "model",
        evaluation=made / "final" / "evaluation.json",
        usage_folder=made / "logs",
        others={name: made / name / "evaluation.json" for name in others},
    )
    names = ("r.md", "r.json", "r.html", "card.md", "settings.yaml")
    pictures = ("loss", "figures", "optimizer", "timeline")
    files = [out / name for name in names] + [out / "figures" / f"{name}.svg" for name in pictures]
    files += [out / "tables" / f"{name}.csv" for name in ("figures", "stages")]
    report.run("final", config=load(raw).settings_of("final"), inputs=inputs, outputs=report.ReportOutputs(*files))
    (out / "config.json").write_text(json.dumps(raw))
    return files


@pytest.fixture(scope="module")
def files(stages, made, tmp_path_factory):
    return _report(stages, made, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def context(files):
    return read_json(files[1])


@pytest.fixture(scope="module")
def evaluations(made):
    return {name: read_json(made / name / "evaluation.json") for name in ("final", *OTHERS)}


def test_every_system_has_a_row_with_its_own_figures(context, evaluations):
    assert [row["name"] for row in context["systems"]] == ["final", *OTHERS]
    for row in context["systems"]:
        for key, _ in SYSTEM_FIGURES:
            figure = evaluations[row["name"]]["figures"][key]
            assert row["cells"][key]["value"] == (figure and figure["value"])


def test_a_system_differs_if_the_interval_of_the_paired_difference_leaves_0_out(context, made):
    ours, seen = read_scores(made / "final" / "evaluation.scores.parquet"), set()
    for row in context["systems"][1:]:
        theirs = read_scores(made / row["name"] / "evaluation.scores.parquet")
        for key, _ in SYSTEM_FIGURES:
            found = difference(ours, theirs, key, n_resamples=EVALUATION.bootstrap, seed=EVALUATION.seed)
            expected = "" if found is None or found.low <= 0 <= found.high else "run is better"
            expected = "run is worse" if expected and found.high < 0 else expected
            assert row["cells"][key]["verdict"] == expected
            seen.add(expected)
    assert {cell["verdict"] for cell in context["systems"][0]["cells"].values()} == {""}
    assert seen >= {"", "run is better"}


def test_what_making_a_system_took_is_told(context):
    took = {row["name"]: (row["wall_s"], row["cpu_s"]) for row in context["systems"]}
    assert (took["final"], took["ppmi_svd"], took["frequency"]) == ((31.0, 62.0), (7.0, 14.0), (None, None))


def test_the_columns_are_the_run_and_those_it_is_compared_with(context):
    assert context["columns"] == ["final", "base", "collapsed"]
    assert all(set(row["cells"]) == set(context["columns"]) for row in context["rows"])
    assert all(set(row["cells"]) <= set(context["columns"]) for row in context["strata"])


def test_a_collapse_is_told_in_every_form_by_name(context, files, evaluations):
    expected = [
        f"{name}: {why}" for name, e in evaluations.items() for why in (e["geometry"] or {}).get("collapse", [])
    ]
    assert context["alarms"] == expected
    assert {line.split(":")[0] for line in expected} >= {"collapsed"}
    assert not {line.split(":")[0] for line in expected} & {"ppmi_svd", "frequency"}
    reason = evaluations["collapsed"]["geometry"]["collapse"][0]
    for path in (files[0], files[2]):
        text = html.unescape(re.sub(r"<[^>]+>", "", path.read_text(encoding="utf-8")))
        assert " ".join(reason.split()) in " ".join(text.split())


def test_a_figure_that_a_column_lacks_is_a_dash_without_a_verdict(context, files):
    [row] = [row for row in context["rows"] if row["key"] == "general_similarity"]
    cell = row["cells"]["collapsed"]
    assert (cell["text"], cell["difference"], cell["verdict"]) == ("–", None, "")
    assert re.search(r"^\| General similarity .*\| – \|.*\| – \|$", files[0].read_text(encoding="utf-8"), re.MULTILINE)


def test_the_controls_stand_beside_the_figure_of_the_model(context, evaluations):
    of = evaluations["final"]
    assert {row["rung"] for row in context["controls"]} == {rung.replace("_", " ") for rung in of["controls"]}
    for row in context["controls"]:
        rung = row["rung"].replace(" ", "_")
        assert row["model"] == (of["figures"][f"auc_{rung}"] or {}).get("value")
        assert (row["blind"], row["n"]) == (of["controls"][rung]["blind"], of["controls"][rung]["n"])


def test_strata_hold_the_value_of_each_column_and_no_empty_bucket(context, evaluations):
    found = {(r["rung"], r["by"], r["bucket"], n): c["value"] for r in context["strata"] for n, c in r["cells"].items()}
    expected = {
        (s["rung"].replace("_", " "), s["by"], s["bucket"], name): s["auc"]["value"]
        for name in context["columns"]
        for s in evaluations[name]["strata"]
        if s["n"]
    }
    assert found == expected
    assert found


def test_geometry_and_opposites_leave_the_frequency_rule_empty(context):
    for row in context["geometry"]:
        assert row["values"]["frequency"] is None
        assert row["values"]["final"] is not None
    assert "frequency" not in {row["name"] for row in context["opposites"]}


def test_the_meters_say_what_training_saw_and_what_a_blind_rule_reaches(context, evaluations):
    rules = evaluations["final"]["controls"]["random_code"]
    best = max(rules[name] for name in ("blind", "classifier", "frequency") if rules[name] is not None)
    assert f"{best:.3f} (random code)" in context["meters"][1]
    assert (
        f"{context['leakage']['validation']['lines_seen_in_training_pct']:.1f} % of the lines" in context["meters"][0]
    )


def test_a_run_that_is_compared_with_itself_has_no_such_column(stages, made, tmp_path):
    files = _report(stages, made, tmp_path, compare_with=("base", "final"), others=("base", "frequency", "ppmi_svd"))
    assert read_json(files[1])["columns"] == ["final", "base"]


def test_a_run_that_is_compared_with_nothing_has_a_report(stages, made, tmp_path):
    files = _report(stages, made, tmp_path, compare_with=(), others=())
    context = read_json(files[1])
    assert [row["name"] for row in context["systems"]] == ["final"]
    assert any(line.startswith("retrieval MRR: ") for line in context["headline"])


def test_a_report_repeated_is_the_same_bytes(stages, made, files, tmp_path):
    again = _report(stages, made, tmp_path)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in files]


def test_the_report_is_strict_json(files):
    json.loads(files[1].read_text(encoding="utf-8"), parse_constant=pytest.fail)


def test_the_report_keeps_its_published_schema(context):
    schema = Path(__file__).parents[2] / "workflow" / "schemas" / "report.schema.json"
    jsonschema.Draft202012Validator(read_json(schema)).validate(context)


def test_the_code_that_loads_the_model_runs_and_gives_its_vectors(files, context):
    markdown = files[0].read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", markdown, re.DOTALL)
    found: dict = {}
    exec(code, found)
    assert found["vectors"].shape == (2, read_json(Path(context["model_folder"]) / "config.json")["hidden_size"])
    assert torch.allclose(found["vectors"].norm(dim=1), torch.ones(2))
    assert found["guesses"]


def test_the_settings_file_makes_the_same_settings_again_over_the_same_configuration(files, context):
    raw = json.loads((files[0].parent / "config.json").read_text())
    laid_over = merged(raw, yaml.safe_load(files[4].read_text(encoding="utf-8")))
    assert json.loads(load(laid_over).settings_of("final")) == context["settings"]


def test_what_was_done_is_what_was_asked_for(context):
    found = {line["what"]: line for line in context["asked"]}
    told = {what for what, line in found.items() if line["verdict"] == "differs"}
    assert told <= {"passes", "share of lines for validation", "share of lines for test", "share of tokens hidden"}
    assert found["steps"]["done"] == "4 of 4 planned"
    assert found["windows of a step"]["done"] == "8.0"
    assert found["pairs of a step"]["done"] == "8.0"
    assert float(found["peak learning rate"]["done"].split(",")[0]) == pytest.approx(1.0e-3)


def test_a_run_whose_usage_holds_no_energy_says_so_and_gives_no_number(context, files):
    assert context["cost"]["run"]["kwh"] is None
    assert context["cost"]["per_1000_windows_wh"] is None
    assert {r["stages"] for r in context["cost"]["reasons"]} == {len(context["stages"])}
    assert "energy of this run was not measured" in files[0].read_text(encoding="utf-8")
    assert "No sensor was sampled" in files[8].read_text(encoding="utf-8")


def test_the_hard_gain_is_the_mean_of_both_hard_figures_on_the_test_split(context, evaluations):
    of = {name: evaluations[name]["figures"] for name in ("final", "base")}
    keys = ("auc_frequency_matched_novel", "retrieval_mrr")
    gain = sum(of["final"][key]["value"] - of["base"][key]["value"] for key in keys) / 2
    assert context["cost"]["hard_gain_points"] == pytest.approx(100 * gain)


def test_the_card_holds_figures_licences_use_and_limits(files, context):
    card = files[3].read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name:")
    cell = next(row for row in context["rows"] if row["key"] == "retrieval_mrr")["cells"]["final"]
    assert cell["text"] in card
    for part in ("## Intended use", "## Limits", "## Energy", "licence", "Not measured"):
        assert part in card
