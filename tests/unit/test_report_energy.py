"""Energy, money and CO2: from what sensors counted, or nothing and a reason."""

import json
from pathlib import Path

import pytest

from commbert.provenance import digest
from commbert.reporting.context import build_context
from commbert.reporting.energy import cost_section, of_job, of_jobs, priced
from commbert.reporting.reading import read_usage
from commbert.reporting.rendering import render_html, render_markdown
from commbert.settings.report import CostSettings, IdlePower
from report_case import COST, energy, sources, usage

IDLE = CostSettings(pue=1.0, idle_power_w=IdlePower(gpu=10.0, cpu=5.0))


def section(stages, *, cost=COST, windows=2000, gain=0.04):
    return cost_section(stages, cost, run="final", windows=windows, hard_gain=gain)


def test_a_kilowatt_hour_is_multiplied_by_pue_then_by_price_and_carbon():
    assert priced(3.6e6, COST) == {"kwh": 1.5, "money": 0.75, "co2_g": 600.0}


def test_what_was_not_measured_has_no_price():
    assert priced(None, COST) == {"kwh": None, "money": None, "co2_g": None}


def test_gpu_and_cpu_are_added_and_a_missing_sensor_leaves_the_other_with_its_reason():
    both = of_job({"wall_s": 1.0, "energy": energy(100.0, 20.0), "gpus": [{}]}, COST)
    assert (both["measured_j"], both["charged_j"], both["idle_j"], both["reason"]) == (120.0, 120.0, None, None)
    assert both["sources"] == ["counter", "rapl"]
    one = of_job({"wall_s": 1.0, "energy": energy(100.0, None, "RAPL is root's")}, COST)
    assert (one["measured_j"], one["cpu_j"], one["reason"]) == (100.0, None, "CPU: RAPL is root's")


def test_a_machine_without_sensors_gives_null_and_the_reason():
    found = of_job({"wall_s": 1.0, "energy": energy(None, None, "no driver")}, COST)
    assert found["measured_j"] is None
    assert found["charged_j"] is None
    assert "no driver" in found["reason"]


def test_a_usage_file_of_an_older_version_is_not_measured():
    found = of_job({"wall_s": 1.0}, COST)
    assert found["measured_j"] is None
    assert "before energy was measured" in found["reason"]


def test_a_sensor_that_counted_a_part_of_the_time_keeps_number_and_reason():
    counted = {**energy(100.0, 1.0), "gpu_reason": "covers 3.0 of 5.0 s", "gpu_source": "integrated"}
    found = of_job({"wall_s": 5.0, "energy": counted, "gpus": [{}]}, COST)
    assert (found["measured_j"], found["reason"]) == (101.0, "GPU: covers 3.0 of 5.0 s")
    stages = [usage("train final", energy=counted)]
    assert any("integrated" in line for line in section(stages)["excluded"])
    assert not any("integrated" in line for line in section([usage("a")])["excluded"])


def test_idle_power_is_taken_off_per_gpu_and_for_the_cpu_only_where_that_was_measured():
    job = {"wall_s": 4.0, "energy": energy(100.0, 50.0), "gpus": [{}, {}]}
    found = of_job(job, IDLE)
    assert (found["idle_j"], found["charged_j"]) == (2 * 10 * 4 + 5 * 4, 50.0)
    assert of_job({**job, "energy": energy(None, 50.0)}, IDLE)["idle_j"] == 20.0


def test_no_device_is_charged_with_less_than_nothing():
    found = of_job({"wall_s": 100.0, "energy": energy(100.0, 600.0), "gpus": [{}]}, IDLE)
    assert (found["idle_j"], found["charged_j"]) == (100.0 + 500.0, 100.0)


def test_jobs_of_a_stage_are_summed_only_where_each_was_measured():
    jobs = [of_job({"wall_s": 1.0, "energy": energy(None, j)}, COST) for j in (3.0, 4.0)]
    assert of_jobs(jobs)["measured_j"] == 7.0
    assert of_jobs([*jobs, of_job({"wall_s": 1.0}, COST)])["measured_j"] is None


def test_energy_per_window_and_per_point_are_of_the_training():
    stages = [usage("corpus", energy=energy(None, 1e6)), usage("train final", energy=energy(3.6e6, None), gpus=[{}])]
    found = section(stages)
    assert found["per_1000_windows_wh"] == pytest.approx(1.5 * 1000 / 2)
    assert found["hard_gain_points"] == pytest.approx(4.0)
    assert found["per_point_wh"] == pytest.approx(1500 / 4)
    assert found["per_point_reason"] is None


@pytest.mark.parametrize(
    ("stages", "gain", "why"),
    [
        ([usage("train final")], 0.04, "not measured"),
        ([usage("train final", energy=energy(1.0, None))], None, "hard metric"),
        ([usage("train final", energy=energy(1.0, None))], 0.0, "no point"),
        ([usage("train final", energy=energy(1.0, None))], -0.1, "no point"),
    ],
)
def test_without_energy_or_gain_there_is_no_energy_per_point_but_a_reason(stages, gain, why):
    found = section(stages, gain=gain)
    assert found["per_point_wh"] is None
    assert why in found["per_point_reason"]


def test_the_run_and_what_it_is_compared_with_are_summed_apart_over_what_was_measured():
    stages = [
        usage("corpus"),
        usage("train final", energy=energy(None, 7.2e6)),
        usage("evaluation base", "comparison", energy=energy(None, 3.6e6)),
    ]
    found = section(stages)
    assert (found["run"]["stages"], found["run"]["measured_stages"], found["run"]["kwh"]) == (2, 1, 3.0)
    assert found["comparison"]["kwh"] == 1.5
    assert found["run"]["wall_s"] == 20.0
    assert section([usage("corpus")])["run"]["kwh"] is None


def test_stages_that_ran_at_the_same_time_are_told():
    measured = energy(None, 1.0)
    apart = [usage("a", energy=measured), usage("b", began_unix_s=10.0, energy=measured)]
    over = [usage("a", energy=measured), usage("b", began_unix_s=9.0, energy=measured)]
    assert not any("twice" in line for line in section(apart)["excluded"])
    assert any("1 stages" in line and "twice" in line for line in section(over)["excluded"])


def test_each_reason_is_told_once_with_its_number_of_stages():
    stages = [usage("a"), usage("b"), usage("c", energy=energy(None, 1.0, "no NVML"))]
    assert [(r["stages"], r["reason"]) for r in section(stages)["reasons"]][1] == (1, "GPU: no NVML")
    assert section(stages)["reasons"][0]["stages"] == 2


def test_what_a_workflow_in_another_folder_made_is_said_to_come_from_the_cache(tmp_path):
    (tmp_path / "cache").mkdir()

    def write(name, folder, *, is_linked=True):
        times = {"began_unix_s": 5.0, "wall_s": 2.0, "cpu_s": 3.0, "peak_rss_gib": 1.0}
        record, kept = tmp_path / f"{name}.usage.json", tmp_path / "cache" / name
        (kept if is_linked else record).write_text(json.dumps({"stage": "x", "folder_digest": folder, **times}))
        if is_linked:
            record.symlink_to(kept)

    here = digest(str(Path.cwd()))
    write("base", "elsewhere")
    write("corpus", here)
    write("words", "before the folder was moved", is_linked=False)
    write("lex.a-0", here)
    write("lex.a-1", "elsewhere")
    write("ingest.a-0", "elsewhere")
    write("ingest.a-1", "elsewhere")
    found = read_usage(tmp_path, "final", [], {"a-0", "a-1"}, COST, sources=set())
    assert {u["stage"] for u in found} == {
        "base (from the cache)",
        "corpus",
        "words",
        "lex, 2 jobs (1 from the cache)",
        "ingest, 2 jobs (from the cache)",
    }


def test_usage_files_of_a_run_are_read_shards_together_and_strangers_left_out(tmp_path):
    def write(name, **more):
        times = {"began_unix_s": 5.0, "wall_s": 2.0, "cpu_s": 3.0, "peak_rss_gib": 1.0}
        (tmp_path / f"{name}.usage.json").write_text(json.dumps({"stage": "x", **times, **more}))

    write("lex.a-0", energy=energy(None, 1.0), peak_rss_gib=4.0)
    write("lex.a-1", energy=energy(None, 2.0), began_unix_s=6.0)
    write("fetch.a", began_unix_s=1.0)
    write("train.final", gpus=[{"peak_memory_gib": 3.0, "mean_utilization_pct": 50.0, "throttled_pct": 1.0}])
    write("train.other")
    write("evaluation.base")
    write("report.final")
    # Left behind by other settings: a source that is gone, a stage that has one job for each shard now.
    write("fetch.gone")
    write("lex")
    write("windows")
    of_all = read_usage(tmp_path, "final", ["base"], {"a-0", "a-1"}, COST, sources={"a"})
    found = {u["stage"]: u for u in of_all}
    assert next(iter(found)) == "fetch a"
    assert set(found) == {"fetch a", "lex, 2 jobs", "train final", "evaluation base"}
    lex = found["lex, 2 jobs"]
    assert (lex["wall_s"], lex["peak_rss_gib"], lex["energy"]["measured_j"], lex["jobs"]) == (4.0, 4.0, 3.0, 2)
    assert (lex["began_unix_s"], lex["ended_unix_s"]) == (5.0, 8.0)
    assert found["train final"]["peak_gpu_memory_gib"] == 3.0
    assert {u["stage"]: u["serves"] for u in found.values()}["evaluation base"] == "comparison"
    assert {found[name]["serves"] for name in ("fetch a", "train final", "lex, 2 jobs")} == {"run"}


def test_making_the_model_that_a_run_starts_from_served_the_run_and_measuring_it_did_not(tmp_path):
    times = {"stage": "x", "began_unix_s": 5.0, "wall_s": 2.0, "cpu_s": 3.0, "peak_rss_gib": 1.0}
    for name in ("train.final", "model.pretrain", "train.pretrain", "average.pretrain", "evaluation.pretrain"):
        (tmp_path / f"{name}.usage.json").write_text(json.dumps(times))
    alone = read_usage(tmp_path, "final", [], set(), COST, sources=set(), starts=["pretrain"])
    made = {"train final", "model pretrain", "train pretrain", "average pretrain"}
    assert {u["stage"]: u["serves"] for u in alone} == dict.fromkeys(made, "run")
    beside = read_usage(tmp_path, "final", ["pretrain"], set(), COST, sources=set(), starts=["pretrain"])
    assert {u["stage"]: u["serves"] for u in beside} == {
        **dict.fromkeys(made, "run"),
        "evaluation pretrain": "comparison",
    }


def test_attempts_before_the_last_one_and_other_machines_cost_too(tmp_path):
    def attempt(began, joules):
        times = {"began_unix_s": began, "wall_s": 2.0, "cpu_s": 3.0, "peak_rss_gib": 1.0}
        return {"stage": "train", **times, "energy": energy(None, joules)}

    killed = {"stage": "train", "began_unix_s": 3.0}
    first = {**attempt(5.0, 1.0), "earlier_attempts": [attempt(1.0, 10.0), killed]}
    second = {**attempt(5.0, 100.0), "earlier_attempts": [attempt(1.0, 1000.0)]}
    (tmp_path / "train.final.usage.json").write_text(json.dumps(first))
    (tmp_path / "train.final.node1.usage.json").write_text(json.dumps(second))
    (found,) = read_usage(tmp_path, "final", [], set(), COST, sources=set())
    assert found["energy"]["measured_j"] == 1111.0
    assert found["energy"]["reason"].startswith("1 earlier attempt(s) were killed")
    assert (found["wall_s"], found["cpu_s"], found["jobs"]) == (4.0, 12.0, 1)
    assert (found["began_unix_s"], found["ended_unix_s"]) == (1.0, 7.0)
    assert not any("twice" in line for line in section([found])["excluded"])


def forms(context):
    pictures = dict.fromkeys(("loss", "comparison", "optimizer"), "<svg/>")
    card = render_markdown("evaluated_card.md.j2", context)
    markdown = render_markdown("report.md.j2", {**context, "figures": pictures})
    return markdown, render_html("report.html.j2", context, pictures), card


def test_every_form_says_that_nothing_was_measured_and_why_and_names_no_number():
    stages = [usage("train final", energy=energy(None, None, "the driver went away"))]
    context = build_context(sources(usage=stages))
    for text in forms(context):
        assert "ot measured" in text
        assert "the driver went away" in text
        assert " kWh" not in text
        assert "g CO2" not in text


def test_every_form_says_what_was_measured_and_what_is_left_out():
    stages = [usage("train final", energy=energy(3.6e6, None, "no RAPL"), gpus=[{}])]
    context = build_context(sources(usage=stages))
    markdown, page, card = forms(context)
    for text in (markdown, page, card):
        assert "1.50 kWh" in text
        assert "600 g CO2" in text
        assert "fans" in text
    for text in (markdown, page):
        assert "0.750 EUR" in text
        assert "20.0 points" in text  # 0.7 against 0.5
        assert "nothing is taken off" in text
        assert "no RAPL" in text


def test_the_tables_of_a_run_alone_are_counted_beside_those_that_all_share(tmp_path):
    own = tmp_path / "variants" / "logs"
    own.mkdir(parents=True)
    times = {"began_unix_s": 5.0, "wall_s": 2.0, "cpu_s": 3.0, "peak_rss_gib": 1.0}
    for path in (tmp_path / "pairs", own / "pairs", own / "windows.a-0", own / "windows.a-1", own / "windows.gone"):
        path.with_name(f"{path.name}.usage.json").write_text(json.dumps(times))
    found = read_usage(tmp_path, "big", [], {"a-0", "a-1"}, COST, sources=set(), own_folder=own)
    assert {u["stage"]: u["wall_s"] for u in found} == {
        "pairs": 2.0,
        "pairs (own tables)": 2.0,
        "windows, 2 jobs (own tables)": 4.0,
    }
    assert {u["serves"] for u in found} == {"run"}
