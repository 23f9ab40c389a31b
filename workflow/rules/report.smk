# One report per run, from one context of measured values.


rule report_run:
    input:
        ingest=rules.corpus.output.summary,
        words=rules.words.output.summary,
        receipts=lambda wildcards: expand(
            rules.tokenizer.output.receipts, variant=CONFIG.variant_of(wildcards.run)
        ),
        windows=lambda wildcards: expand(
            rules.list_windows.output.summary, variant=CONFIG.variant_of(wildcards.run)
        ),
        pairs=lambda wildcards: expand(
            rules.pairs.output.summary, variant=CONFIG.variant_of(wildcards.run)
        ),
        training=rules.train_run.output.summary,
        metrics=rules.train_run.output.metrics,
        model=rules.average_run.output.final,
        evaluation="results/runs/{run}/evaluation.json",
        others=lambda wildcards: list(CONFIG.evaluations_beside(wildcards.run).values()),
        embedding_map=rules.explore_run.output.figure,
    output:
        markdown=report(
            "reports/{run}_training_report.md",
            caption="../report/training_report.rst",
            category="Reports",
            labels={"run": "{run}", "format": "Markdown"},
        ),
        json=report(
            "reports/{run}_training_report.json",
            caption="../report/training_report_json.rst",
            category="Reports",
            labels={"run": "{run}", "format": "JSON"},
        ),
        html=report(
            "reports/{run}_training_report.html",
            caption="../report/training_report.rst",
            category="Reports",
            labels={"run": "{run}", "format": "HTML"},
        ),
        card=report(
            "reports/{run}_model_card.md",
            caption="../report/model_card.rst",
            category="Reports",
            labels={"run": "{run}", "format": "model card"},
        ),
        settings="reports/{run}_settings.yaml",
        loss=report(
            "reports/figures/{run}_loss.svg",
            caption="../report/loss.rst",
            category="Figures",
            labels={"run": "{run}", "figure": "loss"},
        ),
        metric=report(
            "reports/figures/{run}_figures.svg",
            caption="../report/figures.rst",
            category="Figures",
            labels={"run": "{run}", "figure": "before and after"},
        ),
        optimizer=report(
            "reports/figures/{run}_optimizer.svg",
            caption="../report/optimizer.rst",
            category="Figures",
            labels={"run": "{run}", "figure": "learning rate, gradient norm, speed"},
        ),
        timeline=report(
            "reports/figures/{run}_timeline.svg",
            caption="../report/timeline.rst",
            category="Figures",
            labels={"run": "{run}", "figure": "devices over time"},
        ),
        figures_table=report(
            "reports/tables/{run}_figures.csv",
            caption="../report/figures_table.rst",
            category="Tables",
            labels={"run": "{run}", "table": "before and after"},
        ),
        stages_table=report(
            "reports/tables/{run}_stages.csv",
            caption="../report/stages_table.rst",
            category="Tables",
            labels={"run": "{run}", "table": "stages: time, memory, energy, cost"},
        ),
    log:
        text="results/logs/report.{run}.log",
        usage="results/logs/report.{run}.usage.json",
    benchmark:
        "results/benchmarks/report.{run}.tsv"
    conda:
        "../envs/commbert.yaml"
    resources:
        **REPORT_RESOURCES,
    params:
        settings=lambda wildcards: CONFIG.settings_of(wildcards.run),
        others=lambda wildcards: [
            f"--other={name}={path}"
            for name, path in CONFIG.evaluations_beside(wildcards.run).items()
        ],
        own=lambda wildcards: [
            f"--own-usage-folder=results{variant}/logs"
            for variant in [CONFIG.variant_of(wildcards.run)]
            if variant
        ],
        code=code_digest("commbert.stages.report"),
        templates=templates_digest(),
    shell:
        "commbert report --run {wildcards.run} --config {params.settings:q} --ingest {input.ingest} "
        "--words {input.words} --receipts {input.receipts} --windows {input.windows} --pairs {input.pairs} "
        "--training {input.training} --metrics {input.metrics} --model {input.model} "
        "--evaluation {input.evaluation} {params.others:q} --embedding-map {input.embedding_map} --usage-folder results/logs {params.own:q} "
        "--markdown-out {output.markdown} --json-out {output.json} --html-out {output.html} "
        "--card-out {output.card} --settings-out {output.settings} --loss-out {output.loss} "
        "--figures-out {output.metric} --optimizer-out {output.optimizer} --timeline-out {output.timeline} "
        "--figures-table-out {output.figures_table} --stages-table-out {output.stages_table} "
        "--log {log.text} --usage {log.usage}"


# The card in a model folder is written before anything is measured; this folder has the one with the figures.
rule release_run:
    input:
        model=rules.average_run.output.final,
        evaluation="results/runs/{run}/evaluation.json",
        card=rules.report_run.output.card,
    output:
        folder=directory("results/runs/{run}/release"),
    log:
        text="results/logs/release.{run}.log",
        usage="results/logs/release.{run}.usage.json",
    benchmark:
        "results/benchmarks/release.{run}.tsv"
    conda:
        "../envs/commbert.yaml"
    resources:
        **REPORT_RESOURCES,
    params:
        code=code_digest("commbert.stages.release"),
    shell:
        "commbert release --model {input.model} --evaluation {input.evaluation} --card {input.card} "
        "--out {output.folder} --log {log.text} --usage {log.usage}"
