# A run beside what it started from, on the same words, questions and pairs: half a minute. The start model has no trained
# MLM head; the run base_head, where there is one, is the start model with such a head.


rule compare_run:
    input:
        start=lambda wildcards: (
            expand(rules.average_run.output.final, run="base_head")
            if "base_head" in CONFIG.runs
            and name_and_seed(wildcards.run)[0] != "base_head"
            else expand(rules.model.output.folder, run=name_and_seed(wildcards.run)[0])
        ),
        final=rules.average_run.output.final,
        terms=OWN_TABLES["terms"],
        similarity=OWN_TABLES["similarity"],
        text=OWN_TABLES["general_text"],
        questions=(
            os.path.join(workflow.basedir, CONFIG.evaluation.questions)
            if CONFIG.evaluation.questions
            else []
        ),
    output:
        json="results/runs/{run}/comparison.json",
        markdown="results/runs/{run}/comparison.md",
    log:
        text="results/logs/compare.{run}.log",
        usage="results/logs/compare.{run}.usage.json",
    benchmark:
        "results/benchmarks/compare.{run}.tsv"
    conda:
        "../envs/commbert.yaml"
    threads: CONFIG.runtime.threads
    resources:
        **MEASURING_RESOURCES,
    params:
        on=lambda wildcards, input: [
            f"--on={kind}:{path}"
            for kind, path in [
                ("questions", input.questions),
                ("text", input.text),
                ("similarity", input.similarity),
                ("terms", input.terms),
            ]
            if path
        ],
        bootstrap=CONFIG.evaluation.bootstrap,
        seed=CONFIG.evaluation.seed,
        code=code_digest("commbert.inference.comparedtables"),
    shell:
        "commbert compare {input.start} {input.final} {params.on:q} --json {output.json} "
        "--markdown {output.markdown} --bootstrap {params.bootstrap} --seed {params.seed} "
        "--threads {threads} --log {log.text} --usage {log.usage}"


COMPARISONS = (
    expand("results/runs/{run}/comparison.json", run=CONFIG.reported_runs)
    if CONFIG.evaluation.questions
    else []
)
