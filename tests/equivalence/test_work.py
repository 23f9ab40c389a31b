"""What a step is said to compute is what it computes: against plain loops, and torch's own count of operations."""

import json
from itertools import pairwise

import numpy as np
import pytest
from torch.utils.flop_counter import FlopCounterMode

from commbert.nn.collectives import Processes
from commbert.nn.projection import make_projection
from commbert.training.batches import step_batch
from commbert.training.optimization import trainable_parameters
from commbert.training.record import MEASURED
from commbert.training.step import add_gradient
from commbert.training.work import step_flop, step_work
from equivalence.training_case import LEVERS, context, network, rows_of, settings, train_in

CASES = {
    "default": {},
    "asymmetric": {"contrastive": {"symmetric": False}},
    "linear": {"contrastive": {"projection": "linear", "projection_size": 5}},
    "mlp": {"contrastive": LEVERS["mlp"]},
    "mlm_alone": {"objectives": {"mlm": 1.0, "contrastive": 0.0}},
    "pairs_alone": {"objectives": {"mlm": 0.0, "contrastive": 1.0}},
    "texts": {"batch_texts": 3},
    "head_first": {"head_only_steps": 3},
    "head_first_many_parts": {"head_only_steps": 3, "micro_batches": 12},
    "head_alone": {"trainable": "mlm_head", "objectives": {"mlm": 1.0, "contrastive": 0.0}, "best_metric": "mlm_loss"},
    "many_parts": {"micro_batches": 64},
    "one_part": {"micro_batches": 1},
}


def _counted(model, at, batch):
    """Return the operations that torch sees in a step's forward and backward pass."""
    trainable_parameters(model, at.settings)
    projection = make_projection(
        at.settings.contrastive if at.settings.objectives.has_contrastive else None,
        model.config.hidden_size,
        seed=1,
        like=model.mlm_bias.detach(),
    )
    with FlopCounterMode(display=False) as counter:
        add_gradient(model, at, batch, 0.05, projection)
    return counter.get_total_flops()


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("case", CASES)
def test_the_operations_of_a_step_are_those_that_torch_counts(case, pooling):
    model, at = network(), context(settings(**CASES[case]), pooling=pooling)
    batch = step_batch(at, 1)
    assert step_flop(model.config, at.settings, batch.work) == _counted(model, at, batch)


def test_operations_that_are_made_twice_to_save_memory_count_once():
    model, at = network(), context(settings())
    batch = step_batch(at, 1)
    model.checkpoints_layers = True
    assert step_flop(model.config, at.settings, batch.work) < _counted(model, at, batch)


def _plain(at, step):
    """Count over the parts of one process, sequence by sequence."""
    found = {"tokens": [], "square_lengths": [], "padded_tokens": [], "read_tokens": [], "hidden_tokens": []}
    for part in step_batch(at, step).parts:
        offsets = part.packed.offsets.tolist()
        lengths = [b - a for a, b in pairwise(offsets)]
        found["tokens"].append(sum(lengths))
        found["square_lengths"].append(sum(n * n for n in lengths))
        found["padded_tokens"].append(len(lengths) * max(lengths))
        found["read_tokens"].append(len(part.reading.tokens))
        found["hidden_tokens"].append(len(part.reading.labels))
    return found


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("case", CASES)
def test_the_counts_of_a_step_are_those_of_a_plain_loop_over_its_parts(case, pooling):
    at = context(settings(**CASES[case]), pooling=pooling)
    for step in range(3):
        work = step_batch(at, step).work
        assert {name: getattr(work, name).tolist() for name in _plain(at, step)} == _plain(at, step)


def test_every_process_counts_the_whole_step():
    alone = step_batch(context(settings()), 2).work
    for rank in range(2):
        other = step_batch(context(settings(), processes=Processes(rank, 2, rank)), 2).work
        assert all(np.array_equal(a, b) for a, b in zip(vars(alone).values(), vars(other).values(), strict=True))


def test_empty_parts_hold_nothing():
    lengths, edges = np.array([7, 5, 4, 3]), np.array([0, 0, 1, 3, 3, 4, 4])
    work = step_work(
        *(lengths, edges),
        n_windows=2,
        hidden_before=np.array([0, 2, 3]),
        reads_all=True,
        n_compared=0,
        trains_head_only=False,
    )
    assert work.tokens.tolist() == [7, 9, 3]
    assert work.padded_tokens.tolist() == [7, 10, 3]
    assert work.square_lengths.tolist() == [49, 41, 9]
    assert work.hidden_tokens.tolist() == [2, 1, 0]
    assert work.read_tokens.tolist() == [2, 5, 3]
    assert work.words.tolist() == [0, 1, 1]


def test_a_step_without_sequences_has_no_work():
    none = np.empty(0, np.int64)
    work = step_work(
        *(none, np.zeros(5, np.int64)),
        n_windows=0,
        hidden_before=np.zeros(1, np.int64),
        reads_all=True,
        n_compared=0,
        trains_head_only=False,
    )
    assert step_flop(network().config, settings(), work) == 0


def test_the_record_of_a_step_holds_what_a_padded_batch_would_hold(tmp_path):
    at = context(settings())
    _, store = train_in(tmp_path, network(), at)
    rows = [row for row in rows_of(store) if row["event"] == "step"]
    padded = [sum(_plain(at, step)["padded_tokens"]) for step in range(len(rows))]
    assert [row["padded_tokens"] for row in rows] == padded
    share = [100 * (1 - row["tokens"] / n) for row, n in zip(rows, padded, strict=True)]
    assert [row["padding_saved_pct"] for row in rows] == pytest.approx(share)
    assert max(share) > 0


def test_the_speeds_of_a_step_are_its_work_over_its_time(tmp_path):
    _, store = train_in(tmp_path, network(), context(settings()), matmul_tflops=1e-3)
    rows = [json.loads(line) for line in store.metrics.read_text().splitlines()]
    rows = [row for row in rows if row["event"] == "step"]
    for row in rows:
        assert row.keys() >= set(MEASURED)
        # step_s is written with five places; a step of this model takes some milliseconds.
        assert row["padded_tokens_per_s"] / row["tokens_per_s"] == pytest.approx(
            row["padded_tokens"] / row["tokens"], rel=1e-3
        )
        assert row["mfu_pct"] == pytest.approx(100 * row["model_flop"] / row["step_s"] / 1e9, rel=0.05)
        assert 0 < row["memory_gib"] <= row["peak_memory_gib"] + 0.01


def test_without_a_measured_speed_there_is_no_share_of_it(tmp_path):
    _, store = train_in(tmp_path, network(), context(settings(max_steps=1)))
    assert json.loads(store.metrics.read_text().splitlines()[0])["mfu_pct"] is None
