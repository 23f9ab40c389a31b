import copy
import datetime
import json
from pathlib import Path

import pytest
from pydantic import BaseModel

from commbert.errors import SettingsError
from commbert.settings import config
from commbert.settings.base import merged
from commbert.settings.checking import section_from_json
from commbert.settings.corpus import SplitSettings
from commbert.settings.training import TrainingSettings
from commbert.settings.windows import WindowsSettings

SCHEMA = Path(__file__).parents[2] / "workflow" / "schemas" / "config.schema.json"
MINIMAL = {
    "corpus": {"sources": [{"kind": "path", "name": "a", "path": "src"}]},
    "model": {"base": {"kind": "path", "path": "base"}},
}


def raw(**changes):
    return merged(copy.deepcopy(MINIMAL), changes)


def message_of(raw_config):
    with pytest.raises(SettingsError) as caught:
        config.load(raw_config)
    return str(caught.value)


def all_sections():
    todo, found = [config.Config], []
    while todo:
        section = todo.pop()
        found.append(section)
        todo += [s for s in section.__subclasses__() if s not in found]
    todo = [config.Section]
    while todo:
        section = todo.pop()
        todo += section.__subclasses__()
        found.append(section)
    return sorted({s for s in found if s.__module__.startswith("commbert.settings")}, key=lambda s: s.__qualname__)


def test_a_minimal_configuration_is_enough():
    loaded = config.load(raw())
    assert loaded.reported_runs == ["final"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"windws": {}}, "config.yaml windws: unknown setting. Did you mean windows?"),
        ({"windows": {"strid": 2}}, "config.yaml windows.strid: unknown setting. Did you mean windows.stride?"),
        ({"training": {"masking": {"rat": 0.1}}}, "Did you mean training.masking.rate?"),
        ({"model": {"poling": "cls"}}, "config.yaml model.poling: unknown setting. Did you mean model.pooling?"),
        ({"runs": {"final": {"trainin": {}}}}, "Did you mean runs.final.training?"),
        (
            {"runs": {"final": {"training": {"optimizer": {"lerning_rate": 1.0}}}}},
            "config.yaml runs.final.training.optimizer.lerning_rate: unknown setting. "
            "Did you mean runs.final.training.optimizer.learning_rate?",
        ),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(changes, expected):
    assert expected in message_of(raw(**changes))


def test_an_unknown_key_of_a_source_is_named_itself_with_the_nearest_known_one():
    changed = raw()
    changed["corpus"]["sources"][0]["exclud"] = ["x"]
    message = message_of(changed)
    assert "corpus.sources.0.exclud: unknown setting. Did you mean corpus.sources.0.exclude?" in message


def test_an_unknown_key_of_the_base_model_is_named_itself_with_the_nearest_known_one():
    message = message_of(raw(model={"base": {"kind": "path", "path": "base", "pth": "x"}}))
    assert "model.base.pth: unknown setting. Did you mean model.base.path?" in message


def test_one_mistake_in_a_source_gives_one_line():
    changed = raw()
    changed["corpus"]["sources"][0]["license"] = 3
    assert message_of(changed).splitlines() == ["config.yaml corpus.sources.0.license: expected string, found 3."]


def test_an_unknown_key_without_a_near_one_lists_the_known_ones():
    assert "Known here: heldout_stride, lines_after, lines_before" in message_of(raw(windows={"zzzzzz": 1}))


def test_each_of_two_mistakes_is_reported():
    message = message_of(raw(windows={"stride": 0}, pairs={"seed": -1}))
    assert "windows.stride: expected greater than or equal to 1, found 0." in message
    assert "pairs.seed: expected greater than or equal to 0, found -1." in message


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"training": {"epochs": True}}, "training.epochs: expected integer, found true."),
        ({"training": {"epochs": 1.5}}, "training.epochs: expected integer, found 1.5."),
        ({"training": {"batch_per_process": "yes"}}, "training.batch_per_process: expected boolean, found"),
        ({"training": None}, "config.yaml training: expected an object, found null."),
        ({"corpus": {"sources": {"a": 1}}}, "config.yaml corpus.sources: expected array"),
    ],
)
def test_a_wrong_type_names_setting_expectation_and_find(changes, expected):
    assert expected in message_of(raw(**changes))


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"windows": {"max_length": 513}}, "windows.max_length: expected less than or equal to 512, found 513."),
        ({"pairs": {"subsample": 0.0}}, "pairs.subsample: expected greater than 0, found 0.0."),
        ({"training": {"masking": {"rate": 1.0}}}, "training.masking.rate: expected less than 1, found 1.0."),
        ({"training": {"objectives": {"mlm": float("nan")}}}, "training.objectives.mlm: expected a finite number"),
        ({"corpus": {"sources": []}}, "corpus.sources: expected"),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_bound(changes, setting):
    assert setting in message_of(raw(**changes))


@pytest.mark.parametrize("text", ["3e-4", "1e5", "30"])
def test_a_number_that_yaml_reads_as_text_gets_a_hint(text):
    message = message_of(raw(training={"optimizer": {"learning_rate": text}}))
    assert f'learning_rate: expected number, found "{text}". YAML reads' in message
    assert "3.0e-4" in message


def test_text_that_is_no_number_gets_no_hint():
    assert "YAML" not in message_of(raw(training={"epochs": "many"}))


def test_an_override_of_a_run_is_checked_and_located():
    message = message_of(raw(runs={"hot": {"training": {"contrastive": {"temperature": 0.0}}}}))
    assert message.startswith("config.yaml runs.hot.training.contrastive.temperature: expected greater than")


def test_a_run_is_checked_together_with_the_section_it_overrides():
    changed = raw(
        training={"objectives": {"mlm": 1.0, "contrastive": 0.5}},
        runs={"head": {"training": {"trainable": "mlm_head"}}},
    )
    message = message_of(changed)
    assert message.startswith("config.yaml runs.head.training: trainable: mlm_head needs objectives.contrastive: 0")


@pytest.mark.parametrize(
    ("section", "changes", "told"),
    [
        ("training", {"contrastive": {"hardest": 0}}, "training.contrastive.hardest: expected"),
        ("training", {"contrastive": {"hardness": -0.1}}, "training.contrastive.hardness: expected greater than"),
        ("training", {"contrastive": {"pair_weights": "tfidf"}}, "training.contrastive.pair_weights: expected"),
        ("training", {"contrastive": {"projection": "deep"}}, "training.contrastive.projection: expected"),
        (
            "training",
            {"contrastive": {"projection_size": 64}},
            "training.contrastive: projection_size 64 needs a projection: linear or mlp, found none",
        ),
        ("training", {"contrastive": {"projection": "mlp", "projection_size": 1}}, "projection_size: expected"),
        ("pairs", {"code_negatives": 17}, "pairs.code_negatives: expected less than or equal to 16"),
        ("pairs", {"lexical_negatives": -1}, "pairs.lexical_negatives: expected greater than or equal to 0"),
    ],
)
def test_levers_of_the_pair_loss_out_of_range_are_refused(section, changes, told):
    assert told in message_of(raw(**{section: changes}))


def test_a_lever_of_the_pair_loss_changes_the_identity_of_the_settings():
    levers = [
        {"hardest": 3},
        {"hardness": 0.5},
        {"pair_weights": "pmi"},
        {"projection": "mlp"},
        {"projection": "mlp", "projection_size": 8},
    ]
    texts = [TrainingSettings.model_validate({"contrastive": lever}).as_json() for lever in [{}, *levers]]
    assert len(set(texts)) == 6


def test_a_run_changes_only_what_it_names():
    loaded = config.load(raw(training={"epochs": 3}, runs={"hot": {"training": {"masking": {"rate": 0.3}}}}))
    run = loaded.training_of("hot")
    assert (run.epochs, run.masking.rate, run.masking.mask) == (3, 0.3, 0.8)


def test_a_run_may_not_have_its_own_base():
    message = message_of(raw(runs={"b": {"model": {"base": {"kind": "path", "path": "x"}}}}))
    assert message == "config.yaml runs.b.model.base: one base serves all runs. Set model.base."


@pytest.mark.parametrize("value", [True, False, None])
def test_use_yte_is_refused_whatever_its_value(value):
    assert "__use_yte__ is refused" in message_of(raw(__use_yte__=value))


def test_two_sources_of_one_name_are_refused_by_name():
    twice = raw()
    twice["corpus"]["sources"] *= 2
    assert "source names must be unique, found twice: a" in message_of(twice)


def test_a_date_in_yaml_is_refused_in_plain_words():
    assert "Quote dates" in message_of(raw(training={"epochs": datetime.date(2020, 1, 1)}))


def test_a_pattern_that_does_not_compile_is_refused():
    assert "words.pattern: not a regular expression" in message_of(raw(words={"pattern": "("}))


def test_a_comparison_with_a_run_that_does_not_exist_is_refused():
    assert (
        "report.compare_with: expected base, frequency, char_ngrams, ppmi_svd or a name of runs (final), found 'x'"
        in message_of(raw(report={"compare_with": ["x"]}))
    )


@pytest.mark.parametrize("section", ["words", "tokenizer"])
def test_a_shortest_length_above_the_longest_is_refused(section):
    assert section in message_of(raw(**{section: {"min_chars": 50, "max_chars": 40}}))


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-x", "a b", "x" * 65])
def test_a_run_name_that_is_no_path_part_is_refused(name):
    assert "runs" in message_of(raw(runs={name: {}}))


def test_settings_cannot_be_changed_after_the_check():
    with pytest.raises(ValueError, match="frozen"):
        WindowsSettings().stride = 2


def test_validation_changes_no_value():
    given = {"unit": "line", "lines_before": 1, "lines_after": 2, "stride": 3}
    given |= {"max_length": 64, "max_windows": 9, "heldout_stride": 4}
    assert section_from_json(WindowsSettings, json.dumps(given), where="w").model_dump() == {**given, "seed": 17}


def test_equal_settings_give_equal_json_whatever_the_order_of_keys():
    one = section_from_json(SplitSettings, '{"test": 0.2, "seed": 3}', where="s")
    two = section_from_json(SplitSettings, '{"seed": 3, "test": 0.2}', where="s")
    assert one.as_json() == two.as_json()


def test_settings_of_a_run_leave_out_the_runtime():
    settings = json.loads(config.load(raw(runtime={"threads": 3})).settings_of("final"))
    assert "runtime" not in settings
    assert settings["training"]["epochs"] == TrainingSettings().epochs


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '"x"'])
def test_a_section_that_is_no_json_mapping_is_a_settings_error(text):
    with pytest.raises(SettingsError, match=r"^windows"):
        section_from_json(WindowsSettings, text, where="windows")


def test_every_setting_has_a_description():
    sections = all_sections()
    assert len(sections) > 15
    bare = [f"{s.__name__}.{n}" for s in sections for n, f in s.model_fields.items() if not f.description]
    assert bare == []


def test_every_section_is_closed_strict_and_frozen():
    open_ones = [
        s.__name__
        for s in all_sections()
        if issubclass(s, BaseModel)
        and (s.model_config.get("extra"), s.model_config.get("strict"), s.model_config.get("frozen"))
        != ("forbid", True, True)
    ]
    assert open_ones == []


def test_the_json_schema_on_disk_is_the_one_of_the_settings():
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == config.json_schema()


def test_the_json_schema_knows_the_keys_that_a_run_may_override():
    properties = config.json_schema()["$defs"]["RunSettings"]["properties"]
    assert "optimizer" in properties["training"]["properties"]
    assert "required" not in properties["model"]


def corpus_of(*sources):
    sections = {"sources": [{"kind": "path", "path": "src", **source} for source in sources]}
    return config.load({**MINIMAL, "corpus": sections}).corpus


def test_the_shards_of_a_source_are_named_by_their_number_and_how_many_there_are():
    [source] = corpus_of({"name": "a", "shards": 3}).sources
    assert source.shard_names == ("a-00000-of-00003", "a-00001-of-00003", "a-00002-of-00003")


def test_a_shard_is_told_of_its_own_source_alone():
    one, two = corpus_of({"name": "a"}), corpus_of({"name": "a"}, {"name": "b"})
    assert one.of_shard(one.sources[0]).as_json() == two.of_shard(two.sources[0]).as_json()
    assert one.gathering().as_json() != two.gathering().as_json()


def test_the_split_is_no_setting_of_a_shard():
    section = corpus_of({"name": "a"})
    other = section.model_copy(update={"split": SplitSettings(seed=3), "near_duplicates": None})
    assert section.of_shard(section.sources[0]) == other.of_shard(other.sources[0])


@pytest.mark.parametrize("changes", [{"shards": 0}, {"shards": 4097}, {"shard_by": "line"}, {"shards": 2.0}])
def test_a_number_of_shards_that_makes_no_sense_is_refused(changes):
    with pytest.raises(SettingsError, match=rf"corpus\.sources\.0\.{next(iter(changes))}: expected"):
        corpus_of({"name": "a", **changes})


def test_the_number_of_english_words_is_no_setting_of_the_words_of_a_line():
    one, two = (config.load({**MINIMAL, "words": {"english_words": n}}).words for n in (100, 200))
    assert one.of_lines() == two.of_lines()


def test_the_share_of_the_start_model_is_no_setting_of_the_start_model():
    one, two = (config.load(raw(model={"average_with_base": a})).model for a in (0.0, 0.3))
    assert one.of_start() == two.of_start()
    assert two.average_with_base == 0.3


def test_a_run_may_average_with_its_own_share():
    loaded = config.load(raw(runs={"final": {}, "half": {"model": {"average_with_base": 0.5}}}))
    assert [loaded.model_of(run).average_with_base for run in ("final", "half")] == [0.0, 0.5]


@pytest.mark.parametrize(
    ("section", "changes"),
    [
        ("model", {"average_with_base": 1.1}),
        ("training", {"validate_every_steps": 0}),
        ("training", {"validate_every_steps": "epochs"}),
        ("training", {"best_metric": "mrr"}),
    ],
)
def test_values_that_no_validation_or_average_has_are_refused(section, changes):
    [name] = changes
    assert f"config.yaml {section}.{name}: expected" in message_of(raw(**{section: changes}))


def test_the_questions_are_no_setting_of_one_models_figures():
    found = config.load(raw(evaluation={"questions": "mine.csv"})).evaluation
    assert found.questions == "mine.csv"
    assert found.of_figures() == config.load(raw(evaluation={"questions": None})).evaluation
