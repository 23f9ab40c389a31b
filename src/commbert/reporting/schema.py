"""What the JSON report holds: one typed description, from which its published JSON schema is made."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Number = float | None
"""null: not measured."""
Facts = dict[str, Any]
"""A summary as its stage wrote it; the stage's own documentation says what is in it."""
Sentences = list[str]


class Part(BaseModel):
    """An object with exactly these keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class OpenPart(Part):
    """An object with these keys, and others beside them."""

    model_config = ConfigDict(extra="allow")


class Difference(OpenPart):
    """Run minus column, paired."""

    value: float
    low: Number
    """Lower end of the 95 % bootstrap interval."""
    high: Number
    """Upper end of the 95 % bootstrap interval."""


class Cell(OpenPart):
    """A figure of one model."""

    text: str
    """As it is printed."""
    value: Number
    low: Number = None
    """Lower end of the 95 % bootstrap interval."""
    high: Number = None
    """Upper end of the 95 % bootstrap interval."""
    difference: Difference | None = None
    verdict: Literal["", "better", "worse", "no difference shown"] = ""
    """What the interval of the difference allows to say of the run."""


class FigureRow(Part):
    """A figure on the held-out directories, of the run and of each column."""

    key: str
    label: str
    meaning: str
    better: Literal["higher", "lower"]
    cells: dict[str, Cell]


class Tile(Part):
    """A figure that stands on top."""

    label: str
    value: float
    low: Number
    high: Number
    beside: str | None
    """Column that it is shown with."""
    beside_value: Number
    verdict: str


class SystemCell(OpenPart):
    """A figure of a system, and whether the run's own is better."""

    value: Number
    verdict: Literal["", "run is better", "run is worse"]


class SystemRow(Part):
    """A system of the table of all systems."""

    name: str
    cells: dict[str, SystemCell]
    wall_s: Number
    cpu_s: Number
    measured_j: Number
    """Energy of making it, at the sensors."""


class Asked(Part):
    """A setting against what was measured of it."""

    what: str
    setting: str
    asked: str
    done: str
    verdict: Literal["as asked", "differs", "decided", ""]


class Energy(Part):
    """Energy of a stage in J; null: no sensor counted, ``reason`` says why."""

    gpu_j: Number
    cpu_j: Number
    measured_j: Number
    """GPU and CPU, as far as they were measured."""
    idle_j: Number
    """Of it what the idle machine would have drawn; null: not known, and not taken off."""
    charged_j: Number
    """Measured less idle."""
    sources: list[str]
    reason: str | None


class Priced(Part):
    """Energy of the site, money, CO2 equivalents."""

    kwh: Number
    money: Number
    """In the currency of the settings."""
    co2_g: Number


class StageCost(Energy, Priced):
    """What a stage drew and cost."""

    stage: str


class TotalCost(Priced):
    """Sum over stages, of those that were measured."""

    stages: int
    measured_stages: int
    wall_s: float
    cpu_s: float
    measured_j: Number
    idle_j: Number
    charged_j: Number


class Reason(Part):
    """Why something was not measured, and in how many stages."""

    reason: str
    stages: int


class Cost(Part):
    """Energy and what it costs."""

    settings: Facts
    """The section ``report.cost``."""
    stages: list[StageCost]
    run: TotalCost
    """Stages that the run itself needed."""
    comparison: TotalCost
    """Stages of what it is compared with."""
    per_1000_windows_wh: Number
    """Energy of the stage train per 1,000 windows that it read."""
    hard_gain_points: Number
    """Hundredths that the hard metric gained over the base model on the test split."""
    per_point_wh: Number
    """Energy of the stage train per such point."""
    per_point_reason: str | None
    reasons: list[Reason]
    excluded: Sentences


class Stage(Part):
    """What a stage took."""

    stage: str
    serves: Literal["run", "comparison"]
    jobs: int
    began_unix_s: float
    ended_unix_s: float
    wall_s: float
    """Of all its jobs together."""
    cpu_s: float
    peak_rss_gib: Number
    peak_gpu_memory_gib: Number
    mean_gpu_utilization_pct: Number
    throttled_pct: Number
    throttle_reasons: list[str]
    gaps: int
    """Gaps in the samples of its sensors."""
    energy: Energy


class Training(OpenPart):
    """The training in figures."""

    steps: int
    planned_steps: int
    stopped_early: bool
    resumed_at_steps: list[int]
    best_step: int | None
    seed: int
    windows_read: int
    tokens: int
    tokens_per_s: float
    first_loss: Number
    last_loss: Number
    peak_learning_rate: float
    validations: int
    remarks: Sentences
    further: list[Facts]


class Neighbours(Part):
    """Nearest words of one word, a list per column."""

    word: str
    columns: dict[str, list[str]]


class Reproduce(Part):
    """How to make the run again."""

    commit: str | None
    is_dirty: bool
    settings_file: str
    target: str


class Report(Part):
    """The report of one training run."""

    version: Annotated[Literal[2], Field(description="Of this schema.")]
    run: str
    columns: list[str]
    """The run, then what it is compared with."""
    tiles: list[Tile]
    headline: Sentences
    meters: Sentences
    """What leaks, and what a shortcut reaches."""
    alarms: Sentences
    asked: list[Asked]
    rows: list[FigureRow]
    system_figures: list[str]
    systems: list[SystemRow]
    controls: list[Facts]
    strata: list[Facts]
    geometry: list[Facts]
    opposites: list[Facts]
    popularity_mrr: Number
    told: dict[str, Facts | None]
    neighbours: list[Neighbours]
    leakage: dict[str, dict[str, Any]]
    corpus: Facts
    words: Facts
    receipts: Facts
    """The tokenizer's: entries, fertility before and after."""
    windows: dict[str, Facts]
    pairs: Facts
    model: Facts
    model_folder: str
    training: Training
    validations: list[Facts]
    stages: list[Stage]
    stages_total_s: float
    cost: Cost
    settings: Facts
    settings_digest: str
    evaluation_settings: Facts
    environment: Facts
    machine: Facts
    digests: dict[str, str]
    reproduce: Reproduce


def json_schema() -> Facts:
    """Return the JSON schema of the report (kept in ``workflow/schemas``)."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Report.model_json_schema()}
