import pytest
import torch

from commbert.settings.training import Optimizer
from commbert.training.optimization import make_optimizer, rate_factor, set_rate, trainable_parameters
from equivalence.training_case import network, settings

torch.set_num_threads(1)


def _groups(**changes):
    """Return {(peak rate, decay): names}."""
    chosen = settings(optimizer={"learning_rate": 1.0e-3, **changes})
    parameters = trainable_parameters(network(), chosen)
    name_of = {id(p): n for n, p in parameters.items()}
    optimizer = make_optimizer(parameters, chosen.optimizer)
    return {(g["peak"], g["weight_decay"]): {name_of[id(p)] for p in g["params"]} for g in optimizer.param_groups}


def test_biases_and_layer_norms_do_not_decay_and_all_matrices_do():
    groups = _groups(weight_decay=0.1)
    still, decaying = groups[1e-3, 0.0], groups[1e-3, 0.1]
    assert {n for n in still | decaying if n.endswith("bias") or "LayerNorm" in n} == still
    assert decaying >= {"bert.embeddings.word_embeddings.weight", "bert.encoder.layer.0.attention.self.query.weight"}


def test_the_heads_own_parameters_have_their_own_rate():
    groups = _groups(head_learning_rate=5.0e-3)
    head = set().union(*(names for (rate, _), names in groups.items() if rate == 5e-3))
    assert head == {
        f"cls.predictions.transform.{n}" for n in ("dense.weight", "dense.bias", "LayerNorm.weight", "LayerNorm.bias")
    }


def test_without_a_head_rate_all_parameters_share_one():
    assert {rate for rate, _ in _groups()} == {1e-3}


def test_the_tied_matrix_stands_in_one_group_once():
    chosen = settings()
    parameters = trainable_parameters(network(), chosen)
    listed = [id(p) for g in make_optimizer(parameters, chosen.optimizer).param_groups for p in g["params"]]
    assert len(listed) == len(set(listed)) == len(parameters)
    assert "cls.predictions.decoder.weight" not in parameters


@pytest.mark.parametrize(
    ("changes", "absent", "present"),
    [
        ({}, "bert.pooler.dense.weight", "cls.predictions.bias"),
        ({"objectives": {"mlm": 0.0}}, "cls.predictions.bias", "bert.embeddings.word_embeddings.weight"),
        (
            {"trainable": "mlm_head", "objectives": {"contrastive": 0.0}},
            "bert.embeddings.word_embeddings.weight",
            "cls.predictions.bias",
        ),
    ],
)
def test_only_what_an_objective_reads_is_trained(changes, absent, present):
    model = network()
    parameters = trainable_parameters(model, settings(**changes))
    assert absent not in parameters
    assert present in parameters
    assert {n for n, p in model.named_parameters() if p.requires_grad} == set(parameters)


@pytest.mark.parametrize(("step", "expected"), [(0, 0.5), (1, 1.0), (2, 1.0), (3, 7 / 8), (6, 4 / 8), (9, 1 / 8)])
def test_the_rate_by_hand_over_ten_steps_with_two_of_warm_up(step, expected):
    assert rate_factor(step, 10, 0.2) == pytest.approx(expected, rel=1e-12)


def test_without_warm_up_the_first_step_has_the_peak_rate():
    assert rate_factor(0, 10, 0.0) == 1.0


def test_with_nothing_but_warm_up_the_last_step_has_the_peak_rate():
    assert [rate_factor(s, 4, 1.0) for s in range(4)] == [0.25, 0.5, 0.75, 1.0]


def test_a_run_of_one_step_has_a_rate_above_zero():
    assert rate_factor(0, 1, 0.1) == 1.0


def test_setting_the_rate_keeps_the_groups_proportions():
    chosen = settings(optimizer={"learning_rate": 1.0e-3, "head_learning_rate": 4.0e-3})
    optimizer = make_optimizer(trainable_parameters(network(), chosen), chosen.optimizer)
    for factor in (0.5, 0.25):
        set_rate(optimizer, factor)
    assert {g["lr"] for g in optimizer.param_groups} == {0.25e-3, 1e-3}


def test_a_first_step_by_hand():
    # Both moments are bias-corrected to g and g^2, so the step is the rate times sign(g), after decay by rate * decay.
    w = torch.nn.Parameter(torch.tensor([[2.0, -3.0]], dtype=torch.float64))
    optimizer = make_optimizer({"w": w}, Optimizer(learning_rate=0.1, weight_decay=0.5))
    w.grad = torch.tensor([[4.0, -0.25]], dtype=torch.float64)
    optimizer.step()
    assert w.tolist()[0] == pytest.approx([2.0 * 0.95 - 0.1, -3.0 * 0.95 + 0.1], rel=1e-6)
