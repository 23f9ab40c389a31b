import pytest
import torch

from commbert.settings.training import Optimizer
from commbert.training.optimization import adamw_options, parameter_groups, rate_factor, set_rate, trainable_parameters
from equivalence.training_case import network, settings

torch.set_num_threads(1)


def _groups(**changes):
    """Return {(peak rate, decay): names}."""
    chosen = settings(optimizer={"learning_rate": 1.0e-3, **changes})
    parameters = trainable_parameters(network(), chosen)
    name_of = {id(p): n for n, p in parameters.items()}
    groups = parameter_groups(parameters, chosen)
    return {(g["peak"], g["weight_decay"]): {name_of[id(p)] for p in g["params"]} for g in groups}


def _optimizer(parameters, chosen):
    return torch.optim.AdamW(parameter_groups(parameters, chosen), **adamw_options(chosen.optimizer))


def test_biases_and_layer_norms_do_not_decay_and_all_matrices_do():
    groups = _groups(weight_decay=0.1)
    still, decaying = groups[1e-3, 0.0], groups[1e-3, 0.1]
    assert {n for n in still | decaying if n.endswith("bias") or "norm" in n} == still
    assert decaying >= {"word_embeddings.weight", "layers.0.qkv_weight"}


def test_the_heads_own_parameters_have_their_own_rate():
    groups = _groups(head_learning_rate=5.0e-3)
    head = set().union(*(names for (rate, _), names in groups.items() if rate == 5e-3))
    assert head == {f"mlm_{n}" for n in ("dense.weight", "dense.bias", "norm.weight", "norm.bias")}


def test_without_a_head_rate_all_parameters_share_one():
    assert {rate for rate, _ in _groups()} == {1e-3}


def test_the_tied_matrix_stands_in_one_group_once():
    chosen = settings()
    parameters = trainable_parameters(network(), chosen)
    listed = [id(p) for g in parameter_groups(parameters, chosen) for p in g["params"]]
    assert len(listed) == len(set(listed)) == len(parameters)
    assert sum(p.numel() == network().word_embeddings.weight.numel() for p in parameters.values()) == 1


@pytest.mark.parametrize(
    ("changes", "absent", "present"),
    [
        ({}, "pooler.weight", "mlm_bias"),
        ({"objectives": {"mlm": 0.0}}, "mlm_bias", "word_embeddings.weight"),
        (
            {"trainable": "mlm_head", "objectives": {"contrastive": 0.0}},
            "word_embeddings.weight",
            "mlm_bias",
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
    assert rate_factor(step, 10, Optimizer(warmup_fraction=0.2)) == pytest.approx(expected, rel=1e-12)


def test_without_warm_up_the_first_step_has_the_peak_rate():
    assert rate_factor(0, 10, Optimizer(warmup_fraction=0.0)) == 1.0


def test_with_nothing_but_warm_up_the_last_step_has_the_peak_rate():
    assert [rate_factor(s, 4, Optimizer(warmup_fraction=1.0)) for s in range(4)] == [0.25, 0.5, 0.75, 1.0]


def test_a_run_of_one_step_has_a_rate_above_zero():
    assert rate_factor(0, 1, Optimizer()) == 1.0


def test_setting_the_rate_keeps_the_groups_proportions():
    chosen = settings(optimizer={"learning_rate": 1.0e-3, "head_learning_rate": 4.0e-3})
    optimizer = _optimizer(trainable_parameters(network(), chosen), chosen)
    for factor in (0.5, 0.25):
        set_rate(optimizer, factor)
    assert {g["lr"] for g in optimizer.param_groups} == {0.25e-3, 1e-3}


def test_a_first_step_by_hand():
    # Both moments are bias-corrected to g and g^2, so the step is the rate times sign(g), after decay by rate * decay.
    w = torch.nn.Parameter(torch.tensor([[2.0, -3.0]], dtype=torch.float64))
    optimizer = _optimizer({"w": w}, settings(optimizer={"learning_rate": 0.1, "weight_decay": 0.5}))
    w.grad = torch.tensor([[4.0, -0.25]], dtype=torch.float64)
    optimizer.step()
    assert w.tolist()[0] == pytest.approx([2.0 * 0.95 - 0.1, -3.0 * 0.95 + 0.1], rel=1e-6)
