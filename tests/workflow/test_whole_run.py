"""The finished run, looked at as a user would."""

import json
import os
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from workflow_case import snakemake, write_config

pytestmark = pytest.mark.slow  # they share one run of the whole workflow, a minute and a half


def test_the_report_stands_in_three_forms(finished_run: Path) -> None:
    reports = finished_run / "reports"
    text = (reports / "final_training_report.md").read_text()
    context = json.loads((reports / "final_training_report.json").read_text())
    page = (reports / "final_training_report.html").read_text()
    value = next(r for r in context["rows"] if r["key"] == "retrieval_mrr")["cells"]["final"]["value"]
    assert f"{value:.3f}" in text
    assert f"{value:.3f}" in page


def test_the_page_loads_nothing(finished_run: Path) -> None:
    found: list[str] = []

    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag not in ("iframe", "object", "link")
            assert tag != "script" or not attrs  # the script that sorts tables stands in the page
            found.extend(v or "" for k, v in attrs if k in ("src", "href"))

    parser = Links()
    parser.feed((finished_run / "reports" / "final_training_report.html").read_text())
    assert found
    assert all(link.startswith(("data:image/svg+xml;base64,", "#")) for link in found)


def test_the_words_of_the_run_can_be_looked_up_beside_the_base_model(finished_run: Path) -> None:
    page = (finished_run / "reports" / "final_neighbours.html").read_text()
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    summary = json.loads((finished_run / "results/runs/final/explore.json").read_text())
    assert len(data["words"]) == summary["words"]
    assert summary["page"]["recall"] == {"base": 1.0, "run": 1.0}
    # The run has been trained: it does not hold the same words to be alike.
    assert data["base"]["index"] != data["run"]["index"]
    assert "<svg" in (finished_run / "reports" / "figures" / "final_map.svg").read_text()
    folder = finished_run / "results/runs/final/vectors"
    assert {path.name for path in folder.iterdir()} == {
        "vectors.parquet",
        "projector.vectors.tsv",
        "projector.metadata.tsv",
        "vectors.word2vec.txt",
    }


def test_snakemakes_own_report_holds_all_results_with_captions_and_labels(finished_run: Path, tmp_path: Path) -> None:
    done = snakemake(finished_run, "--report", str(tmp_path / "workflow.html"))
    assert done.returncode == 0, done.stderr[-2000:]
    page = (tmp_path / "workflow.html").read_text(encoding="utf-8")
    for category in ("Reports", "Figures", "Tables"):
        assert f'"{category}"' in page
    results = ("training_report.md", "training_report.html", "training_report.json", "model_card.md")
    figures = ("loss.svg", "figures.svg", "optimizer.svg", "timeline.svg", "figures.csv", "stages.csv")
    for name in (*results, *figures):
        assert f"final_{name}" in page
    assert "95 % bootstrap" in page


def test_every_stage_of_the_run_has_its_time_in_the_report(finished_run: Path) -> None:
    context = json.loads((finished_run / "reports" / "final_training_report.json").read_text())
    stages = {s["stage"] for s in context["stages"]}
    assert {
        "base",
        "corpus",
        "words",
        "tokenizer",
        "list-windows",
        "pairs",
        "model final",
        "train final",
        "average final",
    } <= stages
    for stage in ("ingest", "lex", "windows", "draw"):  # of a shard
        assert any(name.split()[0] == stage for name in stages), stage
    assert {"evaluation base", "evaluation final", "evaluation other"} <= stages


def test_what_came_in_is_what_was_used_or_skipped(finished_run: Path) -> None:
    table = json.loads((finished_run / "results/corpus/ingest.json").read_text())["accounting"]
    files = [p for p in (finished_run / "tree").rglob("*") if p.is_file()]
    assert sum(row["files"] for row in table.values()) == len(files)
    assert sum(row["bytes"] for row in table.values()) == sum(p.stat().st_size for p in files)
    assert sum(row["lines"] for row in table.values()) == sum(len(p.read_text().splitlines()) for p in files)


def test_the_exported_folder_gives_the_evaluated_vectors_in_a_fresh_process(finished_run: Path) -> None:
    final = finished_run / "results/runs/final/final"
    code = f"""
import json, numpy as np, torch
from pathlib import Path
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer, pipeline
from commbert.nn.model import load_bert, special_ids, text_vectors
from commbert.tokenization.encoding import encode_words, load_tokenizer
folder = {str(final)!r}
words = ["harq", "pdcch_index", "the", "rlc_process"]
path = Path(folder)
sequences = encode_words(load_tokenizer(path), words)
ours = text_vectors(load_bert(path), sequences, special_ids(path), pooling="mean", device=torch.device("cpu")).numpy()
theirs = SentenceTransformer(folder).encode(words)
assert np.abs(ours - theirs).max() < 1e-5, np.abs(ours - theirs).max()
for kind in (AutoModel, AutoModelForMaskedLM):
    _, info = kind.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"], info
assert len(pipeline("fill-mask", folder)("harq = [MASK]")) == 5
assert len(AutoTokenizer.from_pretrained(folder)) == json.load(open(folder + "/config.json"))["vocab_size"]
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_exported_folder_holds_a_card_and_no_pickle(finished_run: Path) -> None:
    final = finished_run / "results/runs/final/final"
    names = {p.name for p in final.rglob("*") if p.is_file()}
    assert {"README.md", "model.safetensors", "tokenizer.json", "vocab.txt", "modules.json", "config.json"} <= names
    assert not [n for n in names if n.endswith((".bin", ".pt", ".pkl", ".pth"))]


def test_a_failed_stage_leaves_the_earlier_report_and_model(run_copy: Path) -> None:
    model = (run_copy / "results/runs/final/final/model.safetensors").read_bytes()
    report = (run_copy / "reports/final_training_report.md").read_text()
    original = (run_copy / "config.yaml").read_text()
    config = yaml.safe_load(original)
    config["corpus"]["sources"][0]["include"] = ["*.nothing"]
    write_config(run_copy, config)
    done = snakemake(run_copy)
    assert done.returncode == 1
    assert "source tree: expected at least one usable file" in done.stderr
    assert "Traceback" not in done.stderr
    assert (run_copy / "results/runs/final/final/model.safetensors").read_bytes() == model
    assert (run_copy / "reports/final_training_report.md").read_text() == report
    (run_copy / "config.yaml").write_text(original)
    assert snakemake(run_copy, "-n").returncode == 0


def losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "results/runs/final/metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if row["event"] == "step"]


@pytest.mark.slow
def test_two_processes_train_the_same_model(run_copy: Path) -> None:
    expected = losses(run_copy)
    config = yaml.safe_load((run_copy / "config.yaml").read_text())
    config["runtime"] = {"processes": 2}
    write_config(run_copy, config)
    for name in ("trained", "checkpoint"):
        shutil.rmtree(run_copy / "results/runs/final" / name)
    (run_copy / "results/runs/final/metrics.jsonl").unlink()
    done = snakemake(run_copy, "results/runs/final/training.json", "--forcerun", "train_run")
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((run_copy / "results/runs/final/training.json").read_text())["world_size"] == 2
    assert losses(run_copy) == pytest.approx(expected, abs=1e-5)


def test_another_pooling_is_another_training(run_copy: Path) -> None:
    before = (run_copy / "results/runs/final/final/model.safetensors").read_bytes()
    config = yaml.safe_load((run_copy / "config.yaml").read_text())
    config["model"]["pooling"] = "cls"
    write_config(run_copy, config)
    done = snakemake(run_copy, "results/runs/final/final")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (run_copy / "results/runs/final/final/model.safetensors").read_bytes() != before


def test_a_forced_training_of_finished_settings_gives_the_same_model(run_copy: Path) -> None:
    before = (run_copy / "results/runs/final/final/model.safetensors").read_bytes()
    done = snakemake(run_copy, "results/runs/final/final", "--forcerun", "train_run")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (run_copy / "results/runs/final/final/model.safetensors").read_bytes() == before
