# All ablations of `runs:` against the reference, over seeds, on the validation split.


rule sweep_table:
    input:
        validations=[
            f"results/runs/{run}/{name}.json"
            for runs in CONFIG.swept_runs.values()
            for run in runs
            for name in ("validation", "training")
        ],
        others=expand("results/baselines/{name}/validation.json", name=BASELINES),
        averages=expand(
            "results/runs/{run}/averages/{share}/validation.json",
            run=next(iter(CONFIG.swept_runs)),
            share=CONFIG.sweep.averages,
        ),
    output:
        markdown=report(
            "reports/sweep.md",
            caption="../report/sweep.rst",
            category="Reports",
            labels={"run": "all", "format": "Markdown"},
        ),
        json="reports/sweep.json",
        html=report(
            "reports/sweep.html",
            caption="../report/sweep.rst",
            category="Reports",
            labels={"run": "all", "format": "HTML"},
        ),
        pareto="reports/figures/sweep_pareto.svg",
    log:
        text="results/logs/sweep.log",
        usage="results/logs/sweep.usage.json",
    benchmark:
        "results/benchmarks/sweep.tsv"
    conda:
        "../envs/commbert.yaml"
    resources:
        **REPORT_RESOURCES,
    params:
        settings=CONFIG.evaluation.of_figures().as_json(),
        plan=CONFIG.sweep_plan(),
        others=[f"--other={name}" for name in BASELINES],
        shares=[f"--share={share}" for share in CONFIG.sweep.averages],
        code=code_digest("commbert.stages.sweep"),
        templates=templates_digest(),
    shell:
        "commbert sweep --settings {params.settings:q} --plan {params.plan:q} --runs results/runs "
        "--baselines results/baselines {params.others:q} {params.shares:q} --markdown-out {output.markdown} "
        "--json-out {output.json} --html-out {output.html} --pareto-out {output.pareto} --log {log.text} "
        "--usage {log.usage}"
