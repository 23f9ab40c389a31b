"""The JSON report keeps its published schema."""

import json
from pathlib import Path

import jsonschema
import pytest

from commbert.reporting.context import build_context
from commbert.reporting.schema import json_schema
from report_case import energy, sources, step, training, usage

SCHEMA = Path(__file__).parents[2] / "workflow" / "schemas" / "report.schema.json"

CASES = {
    "usual": {},
    "alone": {"others": {}, "columns": [], "differences": {}},
    "measured": {"usage": [usage("train final", energy=energy(1.0, 2.0), gpus=[{}])]},
    "one step, no validation": {
        "steps": [step(1, pair_terms=0, contrastive_loss=None, negatives_per_anchor=None, masked_out_pct=None)],
        "validations": [],
        "training": training(steps=1, best_step=None, figures_at_best={}),
    },
}


def test_the_published_schema_is_the_one_that_the_code_describes():
    assert json.loads(SCHEMA.read_text()) == json_schema(), "run: commbert schema --of report --out " + str(SCHEMA)


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_a_report_keeps_the_schema_and_is_strict_json(changes):
    text = json.dumps(build_context(sources(**changes)), allow_nan=False)
    jsonschema.Draft202012Validator(json_schema()).validate(json.loads(text))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: c.pop("cost"),
        lambda c: c.update(more=1),
        lambda c: c["cost"]["run"].update(kwh="much"),
        lambda c: c["rows"][0]["cells"]["base"].update(verdict="splendid"),
    ],
)
def test_a_report_that_breaks_the_schema_is_found(spoil):
    context = build_context(sources())
    spoil(context)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(json_schema()).validate(context)
