"""Runs, their seeds, the data that they share or make anew, and the rows of the sweep."""

import copy
import json
import re

import pytest

from commbert.errors import SettingsError
from commbert.settings import config
from commbert.settings.base import merged
from commbert.settings.runs import CHANGEABLE, RunSettings, name_and_seed

MINIMAL = {
    "corpus": {"sources": [{"kind": "path", "name": "a", "path": "src"}]},
    "model": {"base": {"kind": "path", "path": "base"}},
}


def loaded(runs=None, **changes):
    return config.load(merged(copy.deepcopy(MINIMAL), {**changes, **({"runs": runs} if runs else {})}))


def message_of(runs=None, **changes):
    with pytest.raises(SettingsError) as caught:
        loaded(runs, **changes)
    return str(caught.value)


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        ("final", ("final", None)),
        ("final@18", ("final", 18)),
        ("a.b-c@0", ("a.b-c", 0)),
        ("x@2147483647", ("x", 2**31 - 1)),
    ],
)
def test_a_name_may_state_a_seed(run, expected):
    assert name_and_seed(run) == expected


def test_a_run_with_another_seed_has_that_seed_and_all_else_of_the_run():
    changes = {"training": {"epochs": 5}, "pairs": {"subsample": None}, "model": {"pooling": "cls"}}
    found = loaded({"final": {}, "other": changes}, training={"seed": 17})
    assert found.training_of("other@3").seed == 3
    assert found.training_of("other").seed == 17
    assert found.training_of("other@3").model_copy(update={"seed": 17}) == found.training_of("other")
    assert found.training_of("other@3").epochs == 5
    assert found.model_of("other@3") == found.model_of("other") != found.model_of("final")
    assert found.data_of("other@3") == found.data_of("other") != found.data_of("final")
    assert found.variant_of("other@3") == found.variant_of("other") != ""


def test_the_seed_of_a_name_counts_more_than_that_of_the_run():
    found = loaded({"final": {"training": {"seed": 5}}})
    assert [found.training_of(run).seed for run in ("final", "final@6", "final@0")] == [5, 6, 0]
    assert [found.with_seed("final", seed) for seed in (5, 6)] == ["final", "final@6"]


def test_the_settings_of_a_run_hold_what_decides_its_result_and_nothing_else():
    runs = {
        "final": {},
        "long": {"tokenizer": {"mode": "keep"}, "training": {"epochs": 9}, "model": {"pooling": "cls"}},
    }
    found = json.loads(loaded(runs).settings_of("long@4"))
    assert (found["tokenizer"]["mode"], found["training"]["epochs"], found["training"]["seed"]) == ("keep", 9, 4)
    assert found["model"]["pooling"] == "cls"
    assert not {"runs", "sweep", "runtime"} & set(found)
    others = loaded({**runs, "more": {}}, sweep={"seeds": [1]}, runtime={"threads": 2})
    assert others.settings_of("long@4") == loaded(runs).settings_of("long@4") != loaded(runs).settings_of("long")


def variants(**runs):
    """Return what stands in the paths of each run."""
    found = loaded({"final": {}, **runs})
    return {name: found.variant_of(name) for name in runs}


def test_a_run_that_changes_no_data_reads_the_shared_tables():
    found = variants(a={}, b={"training": {"epochs": 3}}, c={"model": {"pooling": "cls"}}, d={"ablation": True})
    assert set(found.values()) == {""}


@pytest.mark.parametrize(
    ("section", "changes"),
    [("tokenizer", {"mode": "keep"}), ("windows", {"stride": 5}), ("pairs", {"english_negatives": 4})],
)
def test_a_run_that_changes_a_table_has_a_folder_named_by_the_section(section, changes):
    [folder] = variants(a={section: changes}).values()
    assert re.fullmatch(rf"/variants/{section}-[0-9a-f]{{8}}", folder)


def test_equal_changes_share_a_folder_whatever_the_order_of_keys():
    found = variants(
        a={"pairs": {"english_negatives": 4, "subsample": 0.001}, "windows": {"stride": 5}},
        b={"windows": {"stride": 5}, "pairs": {"subsample": 1.0e-3, "english_negatives": 4}, "training": {"epochs": 2}},
        c={"pairs": {"english_negatives": 4, "subsample": 0.002}, "windows": {"stride": 5}},
        d={"pairs": {"english_negatives": 4, "subsample": 0.001}},
        e={"windows": {"stride": 5}},
    )
    assert found["a"] == found["b"]
    assert found["a"].startswith("/variants/windows-pairs-")
    assert len({found[name] for name in "acde"}) == 4


def test_a_change_back_to_the_shared_value_reads_the_shared_tables():
    changes = {"windows": {"stride": 5}, "pairs": {"subsample": None}}
    found = loaded({"final": {}, "a": changes, "b": {"windows": {"stride": 5}}}, **changes)
    assert (found.variant_of("a"), found.variant_of("b")) == ("", "")
    assert loaded({"final": {}, "a": changes}).variant_of("a") != ""


def test_a_setting_that_a_run_does_not_name_does_not_name_its_folder():
    one, two = (loaded({"final": {}, "a": {"pairs": {"subsample": None}}}, windows={"stride": s}) for s in (2, 3))
    assert one.variant_of("a") == two.variant_of("a")


def test_variants_are_the_shared_tables_first_and_each_folder_once():
    change = {"tokenizer": {"mode": "keep"}}
    found = loaded({"final": {}, "a": change, "b": {**change, "training": {"epochs": 2}}, "c": {"pairs": {"seed": 1}}})
    assert list(found.variants) == ["", found.variant_of("a"), found.variant_of("c")]
    assert found.variants[""].tokenizer == found.tokenizer
    assert found.variants[found.variant_of("b")].tokenizer.mode == "keep"
    assert found.variants[found.variant_of("c")].pairs.seed == 1
    assert found.variants[found.variant_of("c")].tokenizer == found.tokenizer


def test_what_a_run_changes_is_told_by_section():
    assert RunSettings(pairs={"seed": 1}, ablation=True).changes() == {"pairs": {"seed": 1}}
    assert RunSettings().changes() == {}
    assert set(CHANGEABLE) == set(RunSettings.model_fields) - {"ablation"}


RUNS = {
    "final": {},
    "wide": {"training": {"epochs": 2}},
    "a": {"ablation": True},
    "b": {"ablation": True, "pairs": {"seed": 1}},
}


def test_ablations_are_rows_of_the_sweep_and_no_main_runs():
    found = loaded(RUNS)
    assert found.main_runs == ["final", "wide"]
    assert found.reported_runs == ["final", "wide"]
    assert list(found.swept_runs) == ["final", "a", "b"]


def test_every_row_of_the_sweep_has_a_run_for_each_seed():
    found = loaded(
        {**RUNS, "own": {"ablation": True, "training": {"seed": 18}}},
        training={"seed": 17},
        sweep={"seeds": [17, 18, 4]},
    )
    assert found.swept_runs["a"] == ["a", "a@18", "a@4"]
    assert found.swept_runs["own"] == ["own@17", "own", "own@4"]
    assert [found.training_of(run).seed for run in found.swept_runs["own"]] == [17, 18, 4]


def test_rows_of_one_seed_have_a_run_with_the_first_seed_alone():
    found = loaded(RUNS, training={"seed": 17}, sweep={"seeds": [4, 17], "one_seed": ["b"]})
    assert found.swept_runs == {"final": ["final@4", "final"], "a": ["a@4", "a"], "b": ["b@4"]}


def test_the_reference_has_all_seeds_and_a_run_that_is_taken_away_leaves_the_rows_of_one_seed():
    sweep = {"seeds": [1, 2], "one_seed": ["a", "b"]}
    training = {"seed": 1}
    assert loaded(RUNS, training=training, sweep={**sweep, "reference": "b"}).swept_runs == {
        "b": ["b", "b@2"],
        "a": ["a"],
    }
    assert loaded({**RUNS, "a": None}, training=training, sweep=sweep).swept_runs == {
        "final": ["final", "final@2"],
        "b": ["b"],
    }


def test_a_row_of_one_seed_that_is_no_run_is_refused():
    assert message_of(RUNS, sweep={"one_seed": ["b", "c"]}) == (
        "config.yaml sweep.one_seed: expected names of runs (final, wide, a, b), found 'c'. Set the list without it."
    )


@pytest.mark.parametrize(("reference", "rows"), [("wide", ["wide", "a", "b"]), ("b", ["b", "a"])])
def test_the_reference_of_the_sweep_comes_first_and_once(reference, rows):
    assert list(loaded(RUNS, sweep={"reference": reference}).swept_runs) == rows


def test_the_plan_of_the_sweep_tells_changes_and_runs_of_each_row_in_order():
    found = loaded(RUNS, sweep={"seeds": [17, 3]})
    plan = json.loads(found.sweep_plan())
    assert list(plan) == ["final", "a", "b"]
    assert plan["b"] == {"changes": {"pairs": {"seed": 1}}, "runs": ["b", "b@3"]}
    assert plan["final"] == {"changes": {}, "runs": ["final", "final@3"]}
    assert "\n" not in found.sweep_plan()


@pytest.mark.parametrize(
    ("section", "wrong", "right"),
    [
        ("tokenizer", "max_new_word", "max_new_words"),
        ("windows", "strid", "stride"),
        ("pairs", "english_negative", "english_negatives"),
        ("model", "poling", "pooling"),
    ],
)
def test_an_unknown_setting_of_a_run_is_refused_with_the_nearest_name(section, wrong, right):
    message = message_of({"final": {}, "abl": {section: {wrong: 1}}})
    at = f"runs.abl.{section}"
    assert message == f"config.yaml {at}.{wrong}: unknown setting. Did you mean {at}.{right}?"


def test_a_value_of_a_run_out_of_range_is_refused_where_it_stands():
    assert message_of({"final": {}, "abl": {"windows": {"stride": 0}}}).startswith(
        "config.yaml runs.abl.windows.stride: expected"
    )


def test_an_unknown_key_of_a_run_is_refused_with_the_nearest_name():
    assert "runs.abl.ablatio: unknown setting. Did you mean runs.abl.ablation?" in message_of(
        {"abl": {"ablatio": True}}
    )


@pytest.mark.parametrize("name", ["final@18", "a@", "a b", "a/b", ".a"])
def test_a_name_that_no_run_may_have_is_refused_in_one_line(name):
    message = message_of({"final": {}, name: {}})
    assert message.startswith("config.yaml runs")
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("name", ["base", "frequency", "char_ngrams", "ppmi_svd"])
def test_a_run_may_not_be_named_as_a_baseline(name):
    expected = f"config.yaml runs.{name}: the name {name} means a baseline. Choose another name."
    assert message_of({"final": {}, name: {}}) == expected


def test_a_reference_that_is_no_run_is_refused_with_the_names():
    message = message_of(RUNS, sweep={"reference": "finl"})
    assert message == (
        "config.yaml sweep.reference: expected a name of runs (final, wide, a, b), found 'finl'. Name one."
    )


def test_only_ablations_are_refused():
    assert "expected at least one run that is no ablation, found none" in message_of({"a": {"ablation": True}})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"seeds": []}, "sweep.seeds: expected"),
        ({"seeds": [3, 3]}, "sweep: a seed stands twice"),
        ({"seeds": [-1]}, "sweep.seeds.0: expected"),
        ({"averages": [1.2]}, "sweep.averages.0: expected"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(changes, expected):
    assert expected in message_of(sweep=changes)


def test_a_run_that_others_are_compared_with_has_no_column_beside_itself():
    found = loaded({"final": {}, "wide": {}}, report={"compare_with": ["base", "final"], "systems": ["ppmi_svd"]})
    assert found.reported_runs == ["final", "wide"]
    assert list(found.evaluations_beside("final")) == ["base", "ppmi_svd"]
    assert found.evaluations_beside("wide") == {
        "base": "results/baselines/base/evaluation.json",
        "final": "results/runs/final/evaluation.json",
        "ppmi_svd": "results/baselines/ppmi_svd/evaluation.json",
    }


SCRATCH = {"kind": "scratch", "path": None, "positions": 128}
TRAIN = {"mode": "train"}
SHORT = {"max_length": 64}
UNTRAINED = {"compare_with": ["untrained"]}


def scratch(runs=None, **changes):
    sections = {"model": {"base": SCRATCH}, "tokenizer": TRAIN, "windows": SHORT, "report": UNTRAINED}
    return loaded(runs, **merged(sections, changes))


def message_of_scratch(runs=None, **changes):
    with pytest.raises(SettingsError) as caught:
        scratch(runs, **changes)
    return str(caught.value)


def test_a_model_drawn_anew_has_bert_bases_sizes_unless_told_otherwise():
    base = scratch(model={"base": {"positions": 512}}).model.base
    assert (base.layers, base.heads, base.hidden_size, base.feed_forward, base.positions) == (12, 12, 768, 3072, 512)
    assert (base.hidden_dropout, base.attention_dropout, base.initializer_range) == (0.1, 0.1, 0.02)


def test_heads_must_share_the_vector():
    message = message_of_scratch(model={"base": {"heads": 5, "hidden_size": 32}})
    assert message == (
        "config.yaml model.base: hidden_size must be a multiple of heads, found 32 and 5. Set hidden_size: 30."
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [("layers", 0), ("heads", 0), ("hidden_size", 4), ("feed_forward", 1), ("positions", 8), ("hidden_dropout", 1.0),
     ("attention_dropout", -0.1), ("initializer_range", 0.0), ("activation", "swish")],
)  # fmt: skip
def test_a_size_out_of_range_is_refused(key, value):
    assert f"config.yaml model.base.{key}: expected" in message_of_scratch(model={"base": {key: value}})


def test_a_misspelt_size_is_named_with_the_nearest_one():
    assert "Did you mean model.base.layers?" in message_of_scratch(model={"base": {"layer": 3}})


@pytest.mark.parametrize("mode", ["keep", "extend"])
def test_a_model_drawn_anew_needs_a_learnt_vocabulary(mode):
    message = message_of_scratch(tokenizer={"mode": mode})
    assert message.startswith("config.yaml tokenizer.mode: expected train with model.base.kind scratch")
    assert len(message.splitlines()) == 1


def test_a_learnt_vocabulary_needs_a_model_drawn_anew():
    message = message_of(tokenizer=TRAIN)
    assert message.startswith(
        "config.yaml tokenizer.mode: train learns a new vocabulary, for which model.base.kind path"
    )
    assert "Set model.base.kind: scratch, or tokenizer.mode: extend or keep." in message
    assert message_of({"a": {"tokenizer": TRAIN}}).startswith("config.yaml runs.a.tokenizer.mode: train learns")


def test_one_way_to_cut_lines_serves_all_runs():
    message = message_of_scratch({"a": {"tokenizer": {"lower_case": False}}})
    assert message.startswith("config.yaml runs.a.tokenizer.lower_case: lines are cut once for all runs.")
    assert scratch({"a": {"tokenizer": {"vocabulary_size": 500}}}).variant_of("a")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"windows": {"max_length": 129}},
            "windows.max_length must be model.base.positions at most, found 129 and 128",
        ),
        ({"texts": {"max_tokens": 127}}, "texts.max_tokens must be model.base.positions - 2 at most"),
        (
            {"model": {"average_with_base": 0.2}},
            "model.average_with_base must be 0 where the start model is drawn anew",
        ),
    ],
)
def test_what_does_not_fit_a_model_drawn_anew_is_refused(changes, told):
    assert told in message_of_scratch(**changes)


def test_two_windows_must_share_the_positions_of_a_model_that_learns_what_follows():
    with_nsp = {"training": {"objectives": {"nsp": 1.0}}}
    message = message_of_scratch({"a": with_nsp, "b": {}}, windows={"max_length": 65})
    assert message == (
        "config.yaml runs.a: with training.objectives.nsp two windows share the positions, so windows.max_length must "
        "be 64 at most with model.base.positions 128, found 65. Lower the one or raise the other."
    )
    scratch({"a": with_nsp}, windows={"max_length": 64})


def test_windows_that_follow_each_other_are_all_kept_where_that_is_learnt():
    with_nsp = {"training": {"objectives": {"nsp": 1.0}}}
    message = message_of({"a": with_nsp, "b": {}}, windows={"max_windows": 100})
    assert message.startswith("config.yaml runs.a: with training.objectives.nsp all windows are needed")
    assert len(message.splitlines()) == 1
    loaded({"a": with_nsp, "b": {"windows": {"max_windows": 100}}})


def test_what_just_fits_a_model_drawn_anew_is_accepted():
    scratch(windows={"max_length": 128}, texts={"max_tokens": 126})


def test_what_is_drawn_in_place_of_a_base_is_called_untrained():
    assert scratch().baseline_names == ("untrained", "frequency", "char_ngrams", "ppmi_svd")
    assert loaded().baseline_names[0] == "base"
    assert scratch().evaluations_beside("final")["untrained"] == "results/baselines/untrained/evaluation.json"
    assert "expected untrained, frequency" in message_of_scratch(report={"compare_with": ["base"]})
    assert "expected base, frequency" in message_of(report={"compare_with": ["untrained"]})
    for name in ("base", "untrained", "frequency"):
        assert f"runs.{name}: the name {name} means a baseline" in message_of_scratch({name: {}})
        assert f"runs.{name}: the name {name} means a baseline" in message_of({name: {}})


CHAIN = {"final": {"model": {"start": "pretrain", "average_with_base": 0.3}}, "pretrain": {}}


def test_a_run_may_start_from_another_one():
    found = scratch(CHAIN)
    assert [found.start_of(run) for run in ("final", "final@3", "pretrain")] == ["results/runs/pretrain/final"] * 2 + [
        ""
    ]
    assert found.untrained_run == "pretrain"
    assert [found.told_start_of(run) for run in ("final", "pretrain")] == ["run pretrain", "untrained model"]
    assert loaded().told_start_of("final") == "base model"
    assert loaded({"a": {}, "b": {"model": {"start": "a"}}}).start_of("b") == "results/runs/a/final"


def test_the_pooling_of_a_start_is_that_of_the_run_it_comes_from():
    runs = {"final": {"model": {"start": "pretrain", "pooling": "mean"}}, "pretrain": {"model": {"pooling": "cls"}}}
    found = scratch(runs)
    assert [found.start_pooling_of(run) for run in ("final", "pretrain")] == ["cls", "cls"]
    assert found.base_pooling == "cls"
    assert loaded(runs).base_pooling == loaded(runs).start_pooling_of("pretrain") == "mean"


def test_the_start_decides_the_start_model():
    runs = {"a": {}, "b": {"model": {"start": "a"}}}
    found = loaded(runs)
    assert found.model_of("a").of_start() != found.model_of("b").of_start()


@pytest.mark.parametrize(
    ("runs", "told"),
    [
        ({"a": {"model": {"start": "b"}}}, "config.yaml runs.a.model.start: expected a name of runs (a), found 'b'."),
        ({"a": {"model": {"start": "a"}}}, "runs start from each other: a from a. Let one start from the base."),
        (
            {"a": {"model": {"start": "b"}}, "b": {"model": {"start": "c"}}, "c": {"model": {"start": "a"}}},
            "config.yaml runs.a.model.start: runs start from each other: a from b from c from a.",
        ),
        (
            {"a": {"model": {"start": "b"}, "tokenizer": {"min_count": 3}}, "b": {}},
            "config.yaml runs.a.tokenizer: expected the settings of runs.b, from which the run starts",
        ),
    ],
)
def test_a_start_that_cannot_be_is_refused(runs, told):
    assert told in message_of(runs)


def test_a_run_that_leads_into_a_circle_ends_the_search():
    runs = {"x": {"model": {"start": "a"}}, "a": {"model": {"start": "b"}}, "b": {"model": {"start": "a"}}}
    lines = message_of(runs).splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "config.yaml runs.a.model.start",
        "config.yaml runs.b.model.start",
    ]


def test_a_start_for_all_runs_would_be_a_start_from_itself():
    assert "runs start from each other: final from final" in message_of(model={"start": "final"})
