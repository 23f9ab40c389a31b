"""A network that can learn does learn, and only what is there."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from commbert.nn.measures import packed_places
from commbert.nn.packing import pack
from commbert.training import batches
from equivalence.training_case import NO_DROPOUT, REGULAR, SPECIALS, context, data, network, ragged, settings, train_in

pytestmark = pytest.mark.slow

N_WINDOWS, N_TOKENS = 32, 12
N_STEPS = 400


def _accuracy(tmp_path, seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.choice(REGULAR, (N_WINDOWS, N_TOKENS))
    at = context(
        settings(
            objectives={"mlm": 1.0, "contrastive": 0.0},
            masking={"rate": 0.15, "mask": 1.0, "random": 0.0},
            batch_windows=N_WINDOWS,
            micro_batches=1,
            epochs=N_STEPS,
            validate_every_steps=N_STEPS,
            optimizer={"learning_rate": 3.0e-3},
        ),
        replace(data(), windows=ragged(list(rows))),
    )
    model = network(initializer_range=0.05, hidden_size=64, **NO_DROPOUT)
    train_in(tmp_path, model, at)
    hits = []
    model.eval()
    for step in range(10):
        read = batches.step_windows(at, step)
        masked, lengths = read.masked, read.lengths
        places, _ = packed_places(lengths, masked.positions)
        with torch.inference_mode():
            hidden = model.hidden_states(pack(masked.input_ids, lengths, SPECIALS), torch.from_numpy(places))
            best = model.mlm_logits(hidden).argmax(-1).numpy()
        hits.append(best == masked.labels)
    return float(np.concatenate(hits).mean())


def test_a_tiny_network_learns_32_windows_by_heart(tmp_path):
    assert _accuracy(tmp_path) > 0.9


def test_with_shuffled_labels_it_learns_nothing(tmp_path, monkeypatch):
    original = batches.mask_tokens
    rng = np.random.default_rng(1)

    def shuffled(*arguments, **options):
        masked = original(*arguments, **options)
        return replace(masked, labels=rng.permutation(masked.labels))

    with monkeypatch.context() as patch:
        patch.setattr(batches, "mask_tokens", shuffled)
        assert _accuracy(tmp_path) < 0.2
