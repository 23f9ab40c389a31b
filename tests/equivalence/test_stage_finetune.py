"""Fine-tuning end to end on a tiny encoder: what is exported, resumed, refused and reported."""

import json
import logging
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.metrics import accuracy_score, f1_score
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertForSequenceClassification, pipeline

import finetune_case as case
import tiny
from commbert.artifacts import read_json, verify_folder
from commbert.errors import ArtifactError, ModelError, SettingsError, TrainingError
from commbert.finetuning import training
from commbert.finetuning.checkpoints import TrainerCheckpoints
from commbert.finetuning.network import load_with_head
from commbert.stages import findings
from commbert.stages import finetune as stage
from commbert.tokenization.encoding import load_tokenizer


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    return case.base_model(tmp_path_factory.mktemp("encoder") / "base")


@pytest.fixture(scope="session")
def table(tmp_path_factory):
    return case.write(tmp_path_factory.mktemp("table") / "t.csv", case.texts())


def paths(folder, table, model):
    made = {f"{name}_out": folder / name for name in ("best", "final")}
    return stage.FinetunePaths(table, model, folder / "checkpoint", evaluation_out=folder / "evaluation.json", **made)


def run(folder, table, model, **changes):
    return stage.run(case.settings(**changes), case.runtime(), paths=paths(folder, table, model), threads=1)


@pytest.fixture(scope="session")
def done(tmp_path_factory, table, base):
    folder = tmp_path_factory.mktemp("done") / "mine"
    run(folder, table, base)
    return folder


@pytest.fixture(scope="session")
def scored(tmp_path_factory, base):
    folder = tmp_path_factory.mktemp("scored") / "mine"
    rows = [(f"{'water ' * (i % 5)}house {i}", 100 + 10 * (i % 5)) for i in range(120)]
    run(folder, case.write(folder / "t.csv", rows), base, task="scoring", epochs=6)
    return folder


def rows_of(path):
    import csv

    with path.open(newline="") as file:
        return list(csv.reader(file))[1:]


def test_a_fine_tuned_model_knows_its_classes(done):
    found = read_json(done / "evaluation.json")
    figures = found["test"]["best"]["figures"]["accuracy"]
    assert figures["value"] > 0.6 > found["baselines"]["constant"]["accuracy"]
    assert figures["low"] <= figures["value"] <= figures["high"]
    assert found["name"] == "mine"


def test_the_folders_hold_no_pickle_and_a_card(done):
    for name in ("best", "final"):
        files = {p.name for p in (done / name).rglob("*") if p.is_file()}
        needed = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"}
        assert files == {*needed, "README.md", "manifest.json"}
        verify_folder(done / name)
        assert str(done) not in (done / name / "README.md").read_text().replace(str(done.parent), "")


def test_the_class_names_stand_in_the_model_in_order(done):
    config = json.loads((done / "best" / "config.json").read_text())
    assert config["id2label"] == {"0": "beam", "1": "nan", "2": "queue"}
    assert config["label2id"] == {"beam": 0, "nan": 1, "queue": 2}
    assert config["problem_type"] == "single_label_classification"
    assert config["architectures"] == ["BertForSequenceClassification"]


@pytest.mark.parametrize("name", ["best", "final"])
def test_others_load_the_folder_and_find_the_reported_accuracy(done, table, name):
    folder = str(done / name)
    _, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    classify = pipeline("text-classification", folder)
    found = read_json(done / "evaluation.json")
    from commbert.finetuning.examples import make_dataset
    from commbert.finetuning.table import read_table

    data = make_dataset(read_table(table, case.settings(), load_tokenizer(done / name)), case.settings(), "t")
    rows = [rows_of(table)[line - 2] for line in data.splits["test"].line]
    said = [answer["label"] for answer in classify([text for text, _ in rows], truncation=True, max_length=24)]
    truth = [label for _, label in rows]
    figures = {key: value["value"] for key, value in found["test"][name]["figures"].items()}
    assert figures["accuracy"] == pytest.approx(accuracy_score(truth, said))
    assert figures["macro_f1"] == pytest.approx(f1_score(truth, said, average="macro"))


def test_their_tokenizer_gives_the_ids_that_were_trained_on(done):
    theirs = AutoTokenizer.from_pretrained(str(done / "best"))
    ours = load_tokenizer(done / "best")
    for text, _ in case.texts(20):
        assert theirs(text)["input_ids"] == [2, *ours.encode(text, add_special_tokens=False).ids, 3]


def test_best_is_the_epoch_with_the_best_validation(done):
    found = read_json(done / "evaluation.json")["training"]
    assert [e["epoch"] for e in found["epochs"]] == [1, 2, 3, 4]
    values = {e["step"]: e["validation"]["macro_f1"] for e in found["epochs"]}
    assert found["best_step"] == min(step for step, value in values.items() if value == max(values.values()))
    assert found["last_step"] == max(values) == 4 * math.ceil(72 / 8)


def test_memory_and_time_of_each_epoch_are_noted(done):
    for epoch in read_json(done / "evaluation.json")["training"]["epochs"]:
        assert epoch["gpu_memory_gib"] is None
        assert "no CUDA device" in epoch["gpu_memory_reason"]
        assert epoch["peak_memory_gib"] > 0
        assert epoch["epoch_seconds"] > 0


def test_mistakes_name_lines_of_their_class(done, table):
    rows, found = rows_of(table), read_json(done / "evaluation.json")
    for mistake in found["mistakes"]:
        assert rows[mistake["line"] - 2][1] == mistake["expected"] != mistake["found"]
    wrong = np.array(found["test"]["best"]["confusion"])
    assert len(found["mistakes"]) == min(20, wrong.sum() - np.trace(wrong))


def same_weights(a, b):
    return all((a / name / "model.safetensors").read_bytes() == (b / name / "model.safetensors").read_bytes()
               for name in ("best", "final"))  # fmt: skip


class Cut(Exception):
    pass


@pytest.fixture
def cut_at(monkeypatch):
    """Return a function that makes training end as by a kill, in the middle of an epoch or of a checkpoint."""

    def _cut(step, *, while_saving=False):
        plain = training._Recorder.on_save

        def end(self, args, state, control, **_):
            if state.global_step >= step:
                raise Cut
            if while_saving:
                plain(self, args, state, control)

        monkeypatch.setattr(training._Recorder, "on_save" if while_saving else "on_step_begin", end)

    return _cut


@pytest.mark.parametrize(("step", "while_saving"), [(12, False), (31, False), (18, True)])
def test_a_cut_off_training_goes_on_and_gives_the_same_bits(
    tmp_path, table, base, done, cut_at, monkeypatch, step, while_saving
):
    folder = tmp_path / "mine"
    with monkeypatch.context():
        cut_at(step, while_saving=while_saving)
        with pytest.raises(Cut):
            run(folder, table, base)
    monkeypatch.undo()
    assert not (folder / "best").exists()
    found = run(folder, table, base)
    assert found["training"]["resumed_from_step"] == (9 if while_saving else step // 9 * 9)
    assert same_weights(folder, done)
    whole = read_json(done / "evaluation.json")
    assert found["test"] == whole["test"]
    for a, b in zip(found["training"]["epochs"], whole["training"]["epochs"], strict=True):
        assert a["validation"] == b["validation"]


def test_a_finished_training_is_not_trained_again(tmp_path, table, base, done, monkeypatch):
    folder = tmp_path / "mine"
    shutil.copytree(done / "checkpoint", folder / "checkpoint")

    def refuse(*_, **__):
        raise AssertionError

    monkeypatch.setattr(training.Trainer, "train", refuse)
    found = run(folder, table, base)  # from another folder than the one in which it was trained
    assert found["training"]["resumed_from_step"] == 36
    assert same_weights(folder, done)


def test_a_moved_checkpoint_keeps_its_best_epoch(tmp_path, table, base, done, cut_at, monkeypatch):
    with monkeypatch.context():
        cut_at(30)
        with pytest.raises(Cut):
            run(tmp_path / "old", table, base)
    monkeypatch.undo()
    (tmp_path / "old").rename(tmp_path / "new")
    run(tmp_path / "new", table, base)
    assert same_weights(tmp_path / "new", done)


@pytest.fixture
def early(tmp_path, table, base):
    """Stop early: the metric cannot gain by more than 1."""
    chosen = {"patience": 2, "min_gain": 1.0, "epochs": 9}
    return lambda name: run(tmp_path / name, table, base, **chosen)


def test_training_stops_when_the_metric_gains_no_more(early):
    found = early("mine")["training"]
    assert found["is_stopped_early"]
    assert len(found["epochs"]) == 3


def test_after_an_early_stop_no_epoch_is_added(early, tmp_path):
    first = early("mine")
    shutil.rmtree(tmp_path / "mine" / "best")
    again = early("mine")
    assert again["training"]["last_step"] == first["training"]["last_step"]
    assert again["training"]["resumed_from_step"] == first["training"]["last_step"]


def test_epochs_without_gain_are_remembered_over_a_cut(early, cut_at, monkeypatch):
    with monkeypatch.context():
        cut_at(20)
        with pytest.raises(Cut):
            early("mine")
    monkeypatch.undo()
    found = early("mine")["training"]
    assert found["resumed_from_step"] == 18
    assert len(found["epochs"]) == 3


def test_an_early_best_epoch_is_kept_to_the_end(tmp_path, table, base):
    # So slow that no epoch gains: the first one stays the best.
    found = run(tmp_path / "mine", table, base, learning_rate=1.0e-9)["training"]
    assert (found["best_step"], found["last_step"]) == (9, 36)
    names = {p.name for p in (tmp_path / "mine" / "checkpoint").glob("*/checkpoint-*")}
    assert names == {"checkpoint-9", "checkpoint-36"}


def test_a_batch_holds_texts_of_like_length(tmp_path, base):
    rows = [(" ".join(["the"] * (1 + i % 20)), "xy"[i // 20 % 2]) for i in range(400)]
    data = case.write(tmp_path / "t.csv", rows)
    setup = stage._setup(case.settings(), paths(tmp_path, data, base), torch.device("cpu"))
    model = load_with_head(base, ("x", "y"), score_name="", seed=1)
    checkpoints = TrainerCheckpoints(tmp_path / "c", {})
    trainer = training._trainer(model, setup, checkpoints.folder, training._Recorder(checkpoints, setup.device))
    masks = [batch["attention_mask"] for batch in trainer.get_train_dataloader()]
    padded = 1 - sum(m.sum().item() for m in masks) / sum(m.numel() for m in masks)
    assert padded < 0.2  # of random batches it is 0.4


def test_a_damaged_checkpoint_is_passed_over(tmp_path, table, base, done, cut_at, monkeypatch, caplog):
    folder = tmp_path / "mine"
    with monkeypatch.context():
        cut_at(30)
        with pytest.raises(Cut):
            run(folder, table, base)
    monkeypatch.undo()
    newest = max((folder / "checkpoint").glob("*/checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    data = bytearray((newest / "optimizer.pt").read_bytes())
    data[-100] ^= 1
    (newest / "optimizer.pt").write_bytes(data)
    logging.getLogger("commbert").propagate = True
    with caplog.at_level(logging.WARNING, "commbert"):
        found = run(folder, table, base)
    assert "not whole, removed" in caplog.text
    assert found["training"]["resumed_from_step"] < int(newest.name.split("-")[1])
    assert same_weights(folder, done)


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"learning_rate": 1.0e-3}, "settings"), ({"data": True}, "data"), ({"model": True}, "start_weights")],
)
def test_a_checkpoint_of_something_else_is_refused_and_said(
    tmp_path, table, base, cut_at, monkeypatch, caplog, changes, named
):
    folder = tmp_path / "mine"
    with monkeypatch.context():
        cut_at(12)
        with pytest.raises(Cut):
            run(folder, table, base)
    monkeypatch.undo()
    if changes.pop("data", False):
        table = case.write(tmp_path / "t.csv", case.texts(93))
    if changes.pop("model", False):
        base = tiny.write_base_model(tmp_path / "other", seed=4)
    logging.getLogger("commbert").propagate = True
    with caplog.at_level(logging.WARNING, "commbert"):
        found = run(folder, table, base, **{"epochs": 4, **changes})
    assert re.search(rf"not resumed, it differs in {named}$", caplog.text, re.M)
    assert found["training"]["resumed_from_step"] == 0


def test_a_checkpoint_holds_no_file_that_only_unsafe_loading_could_read(done):
    for folder in (done / "checkpoint").glob("*/checkpoint-*"):
        assert not (folder / "training_args.bin").exists()
        for path in (*folder.glob("*.pt"), *folder.glob("rng_state.pth")):
            if path.name != "rng_state.pth":
                torch.load(path, weights_only=True)
        verify_folder(folder)


def test_only_the_newest_and_the_best_checkpoint_are_kept(done):
    found = read_json(done / "evaluation.json")["training"]
    names = {p.name for p in (done / "checkpoint").glob("*/checkpoint-*")}
    assert names == {f"checkpoint-{found['best_step']}", f"checkpoint-{found['last_step']}"}


def test_two_trainings_in_one_folder_are_refused(tmp_path, table, base):
    checkpoints = TrainerCheckpoints(tmp_path / "mine" / "checkpoint", {"a": 1})
    with checkpoints.lock(), pytest.raises(TrainingError, match="another training"):
        run(tmp_path / "mine", table, base)


@pytest.mark.parametrize("name", ["best", "final"])
def test_a_model_that_is_no_fine_tuning_is_never_replaced(tmp_path, table, base, name):
    mine = tmp_path / "run" / name
    shutil.copytree(base, mine)
    before = {path.name: path.read_bytes() for path in mine.iterdir()}
    with pytest.raises(SettingsError, match="expected nothing or the model of a fine-tuning there"):
        run(tmp_path / "run", table, base)
    with pytest.raises(SettingsError, match="expected another folder than that of the encoder"):
        run(tmp_path / "run", table, mine)
    assert {path.name: path.read_bytes() for path in mine.iterdir()} == before
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [name]


def test_scores_are_learnt_on_their_own_scale(scored):
    found = read_json(scored / "evaluation.json")
    assert found["test"]["best"]["figures"]["mae"]["value"] < 0.5 * found["baselines"]["constant"]["mae"]
    config = json.loads((scored / "best" / "config.json").read_text())
    assert config["problem_type"] == "regression"
    assert config["id2label"] == {"0": "label"}


def test_others_get_the_scores_that_were_measured(scored):
    found = read_json(scored / "evaluation.json")
    model = BertForSequenceClassification.from_pretrained(str(scored / "best")).eval()
    theirs = AutoTokenizer.from_pretrained(str(scored / "best"))
    from commbert.finetuning.examples import make_dataset
    from commbert.finetuning.table import read_table

    chosen = case.settings(task="scoring", epochs=6)
    data = make_dataset(read_table(scored / "t.csv", chosen, load_tokenizer(scored / "best")), chosen, "t")
    rows = [rows_of(scored / "t.csv")[line - 2] for line in data.splits["test"].line]
    with torch.no_grad():
        said = [model(**theirs(text, return_tensors="pt")).logits.item() for text, _ in rows]
    assert np.array(found["points"]) == pytest.approx(
        np.stack([[float(score) for _, score in rows], said], axis=1), abs=1e-3
    )
    answer = pipeline("text-classification", str(scored / "best"))(rows[0][0])[0]
    assert answer["score"] == pytest.approx(said[0], abs=1e-3)


def test_biases_and_norms_do_not_decay(table, base, tmp_path, monkeypatch):
    seen = {}
    plain = training.Trainer.create_optimizer

    def spy(self, *args, **kwargs):
        optimizer = plain(self, *args, **kwargs)
        names = {id(p): n for n, p in self.model.named_parameters()}
        seen.update({names[id(p)]: g["weight_decay"] for g in optimizer.param_groups for p in g["params"]})
        return optimizer

    monkeypatch.setattr(training.Trainer, "create_optimizer", spy)
    run(tmp_path / "mine", table, base, epochs=1, weight_decay=0.05)
    assert {n for n, v in seen.items() if v == 0.0} == {n for n in seen if n.endswith("bias") or "LayerNorm" in n}
    assert set(seen.values()) == {0.0, 0.05}
    assert set(seen) == {n for n, _ in load_with_head(base, ("a", "b", "c"), score_name="", seed=0).named_parameters()}


def test_balanced_weights_give_every_class_the_same_weight_in_the_loss(table, base, tmp_path):
    rows = [(text, label) for i, (text, label) in enumerate(case.texts(200)) if label != "beam" or i % 4 == 0]
    data = case.write(tmp_path / "t.csv", rows)
    chosen = case.settings(class_weights="balanced")
    setup = stage._setup(chosen, paths(tmp_path, data, base), torch.device("cpu"))
    loss = training._weighted_loss(setup)
    target = torch.tensor(setup.dataset.splits["train"].target)
    logits = torch.randn(len(target), 3, generator=torch.Generator().manual_seed(1))
    by_row = torch.nn.functional.cross_entropy(logits, target, reduction="none")
    expected = torch.stack([by_row[target == c].mean() for c in range(3)]).mean()
    found = loss(type("Out", (), {"logits": logits}), target)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert (
        training._weighted_loss(stage._setup(case.settings(), paths(tmp_path, data, base), torch.device("cpu"))) is None
    )


def test_a_loss_that_is_not_finite_stops_with_its_step(table, base, tmp_path):
    with pytest.raises(TrainingError, match=r"step \d+: the loss is (nan|inf)\. Lower finetune\.learning_rate"):
        run(tmp_path / "mine", table, poisoned(base, tmp_path / "poisoned"))


def poisoned(base, folder):
    shutil.copytree(base, folder)
    weights = load_file(folder / "model.safetensors")
    name = next(n for n in weights if n.endswith("word_embeddings.weight"))
    weights[name][2] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_head_that_the_folder_has_is_not_taken_over(done):
    fresh = [load_with_head(done / "best", ("x", "y", "z"), score_name="", seed=s).classifier.weight for s in (1, 1, 2)]
    assert torch.equal(fresh[0], fresh[1])
    assert not torch.equal(fresh[0], fresh[2])
    old = load_file(done / "best" / "model.safetensors")
    assert not torch.equal(fresh[0], old["classifier.weight"])


def test_the_encoder_is_that_of_the_folder(base):
    weights = load_file(base / "model.safetensors")
    loaded = load_with_head(base, ("x", "y"), score_name="", seed=1).state_dict()
    same = [n for n in loaded if n in weights]
    assert len(same) == len(loaded) - 2
    assert all(torch.equal(loaded[n], weights[n]) for n in same)


def test_a_folder_that_is_no_encoder_is_refused(tmp_path, base, table):
    with pytest.raises(ModelError, match="expected a model folder"):
        run(tmp_path / "a", table, tmp_path / "none")
    shutil.copytree(base, tmp_path / "code")
    config = json.loads((base / "config.json").read_text())
    (tmp_path / "code" / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "x.y"}}))
    with pytest.raises(ModelError, match="auto_map"):
        run(tmp_path / "a", table, tmp_path / "code")
    shutil.copytree(base, tmp_path / "wide")
    (tmp_path / "wide" / "config.json").write_text(json.dumps({**config, "hidden_size": 64}))
    with pytest.raises(ModelError):
        run(tmp_path / "a", table, tmp_path / "wide")


def test_texts_longer_than_the_models_positions_are_refused(tmp_path, base, table):
    with pytest.raises(SettingsError, match=r"finetune\.max_length: expected at most 64 tokens"):
        run(tmp_path / "a", table, base, max_length=65)


def report_of(folder: Path, out: Path) -> str:
    findings.run(
        evaluation=folder / "evaluation.json",
        report_out=out / "report.md",
        outcome_out=out / "figures" / "test.svg",
        curves_out=out / "figures" / "curves.svg",
    )
    return (out / "report.md").read_text()


def test_the_report_shows_figures_classes_pictures_and_data(done, tmp_path):
    text = report_of(done, tmp_path)
    found = read_json(done / "evaluation.json")
    assert f"| accuracy | {found['test']['best']['figures']['accuracy']['value']:.3f} [" in text
    for part in ("(figures/test.svg)", "(figures/curves.svg)", "| queue |", "bag of tokens", "rows read | 90"):
        assert part in text
    svg = (tmp_path / "figures" / "test.svg").read_text()
    assert "queue" in svg
    assert "Confusion table" in svg


def test_the_same_figures_give_the_same_report_and_pictures(done, tmp_path):
    texts = [report_of(done, tmp_path / name) for name in ("a", "b")]
    assert texts[0] == texts[1]
    for name in ("test", "curves"):
        assert len({(tmp_path / run / "figures" / f"{name}.svg").read_bytes() for run in ("a", "b")}) == 1


def test_the_report_of_scores_has_their_figures(scored, tmp_path):
    text = report_of(scored, tmp_path)
    assert "| MAE |" in text
    assert "Spearman" in text
    assert "true score" in (tmp_path / "figures" / "test.svg").read_text()


def test_hostile_class_names_stay_text(tmp_path, base):
    names = ["<script>alert(1)</script>", "a|b\n# c", "![x](http://e.org)"]
    rows = [(text, names[list(case.TOPICS).index(label)]) for text, label in case.texts()]
    folder = tmp_path / "mine"
    run(folder, case.write(tmp_path / "t.csv", rows), base, epochs=1)
    text = report_of(folder, tmp_path) + (folder / "best" / "README.md").read_text()
    assert not any(part in text for part in ("<script", "a|b", "# c", "![x]"))
    assert "<script" not in (tmp_path / "figures" / "test.svg").read_text()
    assert set(json.loads((folder / "best" / "config.json").read_text())["label2id"]) == set(names)


def test_many_classes_are_reported_and_the_largest_are_shown(tmp_path, base):
    rows = [(f"w{i}", f"class {i % 40}") for i in range(400)]
    run(tmp_path / "mine", case.write(tmp_path / "t.csv", rows), base, epochs=1)
    text = report_of(tmp_path / "mine", tmp_path)
    assert "The picture shows the 25 classes" in text
    assert all(f"| class {i} |" in text for i in range(40))


def test_figures_of_something_else_are_no_report(tmp_path):
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ArtifactError, match="expected the figures of a fine-tuning"):
        findings.run(
            evaluation=tmp_path / "x.json",
            report_out=tmp_path / "r",
            outcome_out=tmp_path / "o",
            curves_out=tmp_path / "c",
        )
