"""Next-sentence prediction in the packed step against transformers' BertForPreTraining on padded rows."""

import json
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModel, BertForMaskedLM, BertForPreTraining

from commbert import tables
from commbert.artifacts import atomic_folder, read_manifest
from commbert.errors import ModelError, TrainingError
from commbert.nn.measures import nsp_scores, packed_places
from commbert.nn.model import _names, load_bert, save_for_others, to_transformers
from commbert.nn.packing import pack
from commbert.rows import read_places, read_windows
from commbert.sentences import Documents
from commbert.settings.evaluation import EvaluationSettings
from commbert.settings.runtime import RuntimeSettings
from commbert.settings.training import TrainingSettings
from commbert.stages import evaluate, train
from commbert.stages.subjects import ModelSubject
from commbert.training import loop
from commbert.training.batches import step_batch, step_windows
from equivalence.training_case import (
    NO_DROPOUT,
    REGULAR,
    SPECIALS,
    context,
    data,
    documents,
    error,
    gradient,
    network,
    ragged,
    rows_of,
    settings,
    train_in,
)

torch.set_num_threads(1)
NSP = {"objectives": {"mlm": 0.6, "contrastive": 0.0, "nsp": 0.9}}


def _padded(at, step):
    """Return the step as transformers takes it: input ids, segment ids, attention mask, MLM labels, NSP labels."""
    read = step_windows(at, step)
    ends = np.cumsum(read.lengths)
    rows = []
    for i, (end, length) in enumerate(zip(ends, read.lengths, strict=True)):
        ids, first = read.masked.input_ids[end - length : end].tolist(), int(read.first_lengths[i])
        sequence = [SPECIALS.cls, *ids[:first], SPECIALS.sep, *ids[first:], SPECIALS.sep]
        labels = [-100] * len(sequence)
        for position, label in zip(read.masked.positions, read.masked.labels, strict=True):
            place = position - (end - length)
            if 0 <= place < length:
                labels[place + 1 + (place >= first)] = int(label)
        segments = [0] * (first + 2) + [1] * (length - first + 1)
        rows.append((sequence, segments, labels))
    longest = max(len(sequence) for sequence, _, _ in rows)

    def filled(column, value):
        return torch.tensor([row[column] + [value] * (longest - len(row[column])) for row in rows])

    return {
        "input_ids": filled(0, SPECIALS.pad),
        "token_type_ids": filled(1, 0),
        "labels": filled(2, -100),
        "attention_mask": torch.tensor([[1] * len(r[0]) + [0] * (longest - len(r[0])) for r in rows]),
        "next_sentence_label": torch.from_numpy(read.labels),
    }


@pytest.mark.parametrize("step", range(3))
def test_losses_and_gradient_are_those_of_transformers(step):
    at = context(settings(**NSP))
    model = network(dtype=torch.float64, **NO_DROPOUT)
    theirs = to_transformers(model).train()
    found, ours = gradient(model, at, step)
    batch = _padded(at, step)
    out = theirs(**{k: v for k, v in batch.items() if "label" not in k})
    mlm = torch.nn.functional.cross_entropy(out.prediction_logits.flatten(0, 1), batch["labels"].flatten())
    nsp = torch.nn.functional.cross_entropy(out.seq_relationship_logits, batch["next_sentence_label"])
    assert found.mlm_loss == pytest.approx(mlm.item(), rel=1e-9)
    assert found.nsp_loss == pytest.approx(nsp.item(), rel=1e-9)
    (0.6 * mlm + 0.9 * nsp).backward()
    expected = oracle_gradient(model, theirs)
    assert error(ours, expected) < 1e-9


def oracle_gradient(model, theirs):
    """Return transformers' gradients in the order and under the names of our parameters."""
    of = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in theirs.named_parameters()}
    parts = []
    for name, _ in model.named_parameters():
        parts += [of[n].reshape(-1) for n in _names(name)]
    return torch.cat(parts)


def test_the_head_alone_learns_in_the_first_steps():
    at = context(settings(**NSP, head_only_steps=1))
    model = network(dtype=torch.float64)
    gradient(model, at, 0)
    touched = {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None and p.grad.norm() > 0}
    assert touched == {"pooler", "nsp", "mlm_dense", "mlm_norm", "mlm_bias"}
    gradient(model, at, 1)
    assert model.word_embeddings.weight.grad.norm() > 0


def test_without_the_objective_pooler_and_nsp_head_stay_as_they_were(tmp_path):
    for name, objectives in (("on", NSP), ("off", {"objectives": {"mlm": 1.0, "contrastive": 0.0}})):
        model = network()
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        train_in(tmp_path / name, model, context(settings(**objectives)))
        changed = {n.split(".")[0] for n, p in model.named_parameters() if not torch.equal(p, before[n])}
        assert {"pooler", "nsp"} & changed == ({"pooler", "nsp"} if name == "on" else set())


def test_a_training_records_the_loss_and_the_accuracy_and_learns_what_follows(tmp_path):
    # Windows of a file hold tokens of the file's own: what follows can be told.
    rng = np.random.default_rng(0)
    where = documents(45)
    file_no = np.unique(where.file_start, return_inverse=True)[1]
    windows = ragged([REGULAR[2 * n : 2 * n + 2][rng.integers(0, 2, 6)] for n in file_no])
    rows = replace(
        data(),
        windows=windows,
        documents=where,
        validation_sentences=(
            windows,
            where.pairs(np.repeat(where.firsts, 4), np.arange(4 * len(where.firsts)), seed=9),
        ),
    )
    chosen = settings(
        objectives={"mlm": 0.1, "contrastive": 0.0, "nsp": 1.0}, max_steps=150, epochs=100, validate_every_steps=150
    )
    _, store = train_in(tmp_path, network(**NO_DROPOUT), context(chosen, rows))
    told = rows_of(store)
    steps, validations = ([r for r in told if r["event"] == kind] for kind in ("step", "validation"))
    assert all(s["sentence_pairs"] == 9 for s in steps)
    assert all(s["loss"] == pytest.approx(0.1 * s["mlm_loss"] + s["nsp_loss"]) for s in steps)
    assert validations[-1]["nsp_accuracy"] > 0.75
    assert validations[-1]["nsp_loss"] < 0.6


@pytest.mark.parametrize("batch_size", [1, 5, 32])
def test_nsp_scores_are_those_of_transformers(batch_size):
    model = network(**NO_DROPOUT)
    windows, pairs = data().validation_sentences
    found = nsp_scores(model, windows, pairs, SPECIALS, device=torch.device("cpu"), batch_size=batch_size)
    theirs = to_transformers(model).eval()
    assert {0, 1} == set(pairs.label.tolist())
    for i in range(len(pairs)):
        a, b = windows[pairs.first[i]].tolist(), windows[pairs.second[i]].tolist()
        ids = torch.tensor([[SPECIALS.cls, *a, SPECIALS.sep, *b, SPECIALS.sep]])
        segments = torch.tensor([[0] * (len(a) + 2) + [1] * (len(b) + 1)])
        with torch.inference_mode():
            logits = theirs(input_ids=ids, token_type_ids=segments).seq_relationship_logits[0].double()
        label = int(pairs.label[i])
        assert found.loss[i] == pytest.approx(-torch.log_softmax(logits, 0)[label].item(), abs=1e-5)
        assert bool(found.is_right[i]) == (int(logits.argmax()) == label)
    assert model.training


def test_a_pack_of_one_and_of_two_sentences_has_its_separators_and_segments():
    packed = pack(np.array([11, 12, 13, 21, 31, 32]), np.array([3, 1, 2]), SPECIALS, first_lengths=np.array([1, 1, 1]))
    assert packed.input_ids.tolist() == [2, 11, 3, 12, 13, 3, 2, 21, 3, 2, 31, 3, 32, 3]
    assert packed.segment_ids.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1]
    assert packed.position_ids.tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2, 0, 1, 2, 3, 4]
    assert packed.offsets.tolist() == [0, 6, 9, 14]
    places, sequence = packed_places(np.array([3, 1, 2]), np.arange(6), np.array([1, 1, 1]))
    assert packed.input_ids[places].tolist() == [11, 12, 13, 21, 31, 32]
    assert sequence.tolist() == [0, 0, 0, 1, 2, 2]


def test_the_work_of_a_step_counts_what_the_nsp_head_reads():
    at = context(settings(**NSP))
    batch = step_batch(at, 0)
    assert batch.work.sentence_pairs.sum() == batch.n_sentence_pairs == 9
    assert batch.work.read_tokens.sum() == batch.n_hidden_tokens + 9
    assert batch.n_tokens == sum(int(p.packed.offsets[-1]) for p in batch.parts)


SETTINGS = TrainingSettings.model_validate(
    {
        "objectives": {"mlm": 1.0, "contrastive": 0.0, "nsp": 1.0},
        "max_steps": 6,
        "batch_windows": 8,
        "micro_batches": 2,
        "validate_every_steps": 3,
        "validation_windows": 8,
        "best_metric": "mlm_loss",
    }
)


def _run(stages, folder, model, **tables):
    return train.run(
        SETTINGS,
        RuntimeSettings(device="cpu"),
        data=replace(stages.data, **tables),
        model=model,
        corpus=stages.corpus,
        checkpoints=folder / "checkpoint",
        best_out=folder / "best",
        final_out=folder / "final",
        metrics_out=folder / "metrics.jsonl",
        summary_out=folder / "training.json",
    )


@pytest.fixture(scope="module")
def start(stages, tmp_path_factory):
    """The start model with positions for two windows."""
    folder = tmp_path_factory.mktemp("start") / "model"
    model = load_bert(stages.start)
    model.config.max_position_embeddings = 130
    model.position_embeddings = torch.nn.Embedding(130, model.config.hidden_size)
    with atomic_folder(folder, about=read_manifest(stages.start)["about"]) as tmp:
        save_for_others(model, stages.start, tmp, pooling="mean")
    return folder


@pytest.fixture(scope="module")
def trained_with_nsp(stages, start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("nsp")
    _run(stages, folder, start)
    return folder


def test_the_stage_trains_the_nsp_head_and_says_so(start, trained_with_nsp):
    before, after = (load_bert(f) for f in (start, trained_with_nsp / "final"))
    assert not torch.equal(before.nsp.weight, after.nsp.weight)
    assert not torch.equal(before.pooler.weight, after.pooler.weight)
    summary = json.loads((trained_with_nsp / "training.json").read_text(encoding="utf-8"))
    assert 0 <= summary["figures_at_best"]["nsp_accuracy"] <= 1
    assert "next-sentence prediction" in (trained_with_nsp / "final" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", [BertForPreTraining, BertForMaskedLM, AutoModel])
def test_the_folder_loads_whole_in_transformers(trained_with_nsp, kind):
    _, info = kind.from_pretrained(str(trained_with_nsp / "final"), output_loading_info=True, local_files_only=True)
    assert not info["missing_keys"]


def test_the_evaluation_measures_nsp_where_it_was_trained(stages, trained_with_nsp, tmp_path):
    settings = EvaluationSettings(windows=20, retrieval_queries=30, random_pairs=500, bootstrap=100)
    found = {}
    for has_nsp in (True, False):
        subject = ModelSubject(trained_with_nsp / "final", "mean", True, "cpu", has_nsp)
        out = {"out": tmp_path / "e.json", "scores_out": tmp_path / "s.parquet"}
        found[has_nsp] = evaluate.run(settings, subject=subject, data=stages.evaluation, split="test", **out)
    assert found[False]["figures"]["nsp_accuracy"] is None
    figure = found[True]["figures"]["nsp_accuracy"]
    assert figure["n"] == found[True]["sentences"]["pairs"] == 20
    assert figure["low"] <= figure["value"] <= figure["high"]
    assert 20 < found[True]["sentences"]["follows_pct"] < 80


def test_held_out_pairs_that_are_too_long_for_the_model_are_counted_and_left_out(stages, trained_with_nsp, tmp_path):
    settings = EvaluationSettings(windows=20, retrieval_queries=30, random_pairs=500, bootstrap=100)
    lengths = np.sort(read_windows(stages.evaluation.windows).sizes)
    short = load_bert(trained_with_nsp / "final")
    for n_positions in (2 * int(np.median(lengths)) + 3, 40):
        at = tmp_path / str(n_positions)
        short.config.max_position_embeddings = n_positions
        short.position_embeddings = torch.nn.Embedding(n_positions, short.config.hidden_size)
        with atomic_folder(at, about=read_manifest(trained_with_nsp / "final")["about"]) as tmp:
            save_for_others(short, trained_with_nsp / "final", tmp, pooling="mean")
        subject = ModelSubject(at, "mean", True, "cpu", True)
        out = {"out": tmp_path / "e.json", "scores_out": tmp_path / "s.parquet"}
        if n_positions == 40:
            with pytest.raises(ModelError, match=r"expected at least \d+ positions for the windows, found 40"):
                evaluate.run(settings, subject=subject, data=stages.evaluation, split="test", **out)
            return
        found = evaluate.run(settings, subject=subject, data=stages.evaluation, split="test", **out)
        assert found["sentences"]["longer_than_the_model"] > 0
        assert found["sentences"]["pairs"] + found["sentences"]["longer_than_the_model"] == 20
        assert found["figures"]["nsp_loss"]["n"] == found["sentences"]["pairs"] > 0


def test_pairs_of_windows_that_are_too_long_for_the_model_are_refused(stages, tmp_path):
    longest = int(read_windows(stages.data.windows).sizes.max())
    said = rf"expected at least {2 * longest + 3} positions for pairs of windows, found 64"
    with pytest.raises(ModelError, match=said):
        _run(stages, tmp_path, stages.start)


def _listed(folder, name, listed, change):
    """Write changed windows of a list, and their own list."""
    parts = [tables.read(path, tables.WINDOWS).to_pylist() for path in tables.read_parts(listed, tables.WINDOWS)]
    rows = change([row for part in parts for row in part])
    kept = {key: [row[key] for row in rows] for key in rows[0]}
    path = folder / f"{name}.parquet"
    tables.write(path, tables.WINDOWS, kept, provenance={})
    tables.write_parts(folder / f"{name}.json", tables.WINDOWS, [path])
    return folder / f"{name}.json"


def test_pieces_of_a_file_that_is_cut_within_a_line_follow_each_other(stages, tmp_path):
    def in_pieces(rows):
        one, places = rows[0], [(0, 20, 1, 2), (20, 20, 2, 2), (40, 21, 2, 3), (61, 19, 3, 4)]
        ids = (one["input_ids"] * 64)[:64]
        return [
            {
                **one,
                "file_id": f,
                "first_token": t,
                "n_tokens": n,
                "first_line": a,
                "last_line": b,
                "input_ids": ids[:n],
            }
            for f in (0, 1)
            for t, n, a, b in places
        ]

    found = Documents.of(*read_places(_listed(tmp_path, "pieces", stages.data.windows, in_pieces)))
    assert found.following.tolist() == [1, 2, 3, -1, 5, 6, 7, -1]


def test_windows_of_lines_that_share_a_line_do_not_follow_each_other(stages):
    rows = [
        row
        for path in tables.read_parts(stages.data.windows, tables.WINDOWS)
        for row in tables.read(path, tables.WINDOWS).to_pylist()
    ]
    by_lines = Documents.of(*(np.array([r[k] for r in rows], np.int64) for k in ("file_id", "first_line", "last_line")))
    found = Documents.of(*read_places(stages.data.windows))
    assert (found.following == by_lines.following).all()
    assert (found.following > np.arange(len(rows)) + 1).any()  # overlapping ones are passed over


def test_a_long_pair_of_the_validation_split_is_refused_before_the_first_step(stages, start, tmp_path):
    def lengthened(rows):
        # Not among the evenly spaced windows that MLM is measured on: these begin with the first.
        long = {**rows[1], "input_ids": (rows[1]["input_ids"] * 64)[:64], "n_tokens": 64}
        return [rows[0], long, *rows[2:]]

    listed = _listed(tmp_path, "long", stages.data.validation_windows, lengthened)
    with pytest.raises(ModelError, match="expected at least 131 positions for pairs of windows, found 130"):
        _run(stages, tmp_path, start, validation_windows=listed)


def test_files_of_one_window_and_a_single_file_are_told_apart(stages, start, tmp_path):
    def first_of_each_file(rows):
        return [row for n, row in enumerate(rows) if not n or row["file_id"] != rows[n - 1]["file_id"]]

    def of_one_file(rows):
        return [row for row in rows if row["file_id"] == rows[0]["file_id"]]

    for change, said in ((first_of_each_file, "follow each other in a file"), (of_one_file, "two training files")):
        listed = _listed(tmp_path, change.__name__, stages.data.windows, change)
        with pytest.raises(TrainingError, match=said):
            _run(stages, tmp_path, start, windows=listed)


def test_a_validation_split_without_pairs_is_said_and_measures_no_nsp(stages, start, tmp_path, caplog):
    def first_of_each_file(rows):
        return [row for n, row in enumerate(rows) if not n or row["file_id"] != rows[n - 1]["file_id"]]

    listed = _listed(tmp_path, "validation", stages.data.validation_windows, first_of_each_file)
    summary = _run(stages, tmp_path, start, validation_windows=listed)
    assert summary["figures_at_best"]["nsp_accuracy"] is None
    assert "no NSP is measured while training" in caplog.text


def test_a_model_of_one_kind_of_segments_is_refused(stages, start, tmp_path):
    model = load_bert(start)
    model.config.type_vocab_size = 1
    model.segment_embeddings = torch.nn.Embedding(1, model.config.hidden_size)
    with atomic_folder(tmp_path / "one", about=read_manifest(start)["about"]) as tmp:
        save_for_others(model, start, tmp, pooling="mean")
    with pytest.raises(ModelError, match="type_vocab_size: expected 2 or more with training"):
        _run(stages, tmp_path, tmp_path / "one")


@pytest.mark.parametrize("with_pairs", [False, True])
def test_a_training_stopped_in_an_epoch_ends_with_the_bits_of_a_straight_one(tmp_path, monkeypatch, with_pairs):
    more = {"batch_texts": 2, "contrastive": {"temperature_learning_rate": 0.01}}
    objectives = {"mlm": 0.5, "contrastive": 0.5 if with_pairs else 0.0, "nsp": 1.0}
    at = context(settings(objectives=objectives, max_steps=5, **(more if with_pairs else {})))
    assert at.plan.steps_per_epoch == 3
    straight = network()
    _, expected = train_in(tmp_path / "straight", straight, at)
    original = loop.add_gradient

    def stopping(model, at, batch, *rest):
        if batch.step == 3:
            signal.raise_signal(signal.SIGTERM)
        return original(model, at, batch, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "add_gradient", stopping)
        train_in(tmp_path / "stopped", network(), at)
    # Computing the layers again in backward changes no bit either.
    again = network(seed=99)
    again.checkpoints_layers = True
    outcome, store = train_in(tmp_path / "stopped", again, at)
    assert outcome.summary["resumed_at_steps"] == [4]
    assert rows_of(store) == rows_of(expected)
    assert all(torch.equal(p, q) for p, q in zip(again.parameters(), straight.parameters(), strict=True))


def test_settings_that_contradict_nsp_are_refused():
    for objectives, said in (({"mlm": 0.0, "contrastive": 1.0, "nsp": 1.0}, "nsp needs mlm above 0"),):
        with pytest.raises(ValueError, match=said):
            TrainingSettings.model_validate({"objectives": objectives})
    with pytest.raises(ValueError, match="nsp stands beside mlm"):
        TrainingSettings.model_validate({"objectives": {"mlm": 0.0, "contrastive": 0.0, "nsp": 1.0}})
    frozen = {"trainable": "mlm_head", "objectives": {"mlm": 1.0, "contrastive": 0.0, "nsp": 1.0}}
    with pytest.raises(ValueError, match=r"needs objectives\.nsp: 0"):
        TrainingSettings.model_validate(frozen)
