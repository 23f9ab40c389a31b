# Measuring: the untouched base model (or the untrained one that is drawn in its place), baselines and runs answer the same
# questions, on the test split (evaluation.json, what is reported) or on the validation split (validation.json, what
# settings are chosen by).
BASELINES = CONFIG.baseline_names
SPLIT_OF = dict(evaluation="test", validation="validation")


wildcard_constraints:
    on="|".join(SPLIT_OF),
    # As Python prints a number of 0 to 1: 0.2, 1.0, 1e-05.
    share="[0-9][0-9.e-]*",


# Words, pairs and lines are the shared ones for all; windows are cut by the subject's own tokenizer.
WORD_TABLES = dict(
    files=rules.corpus.output.files,
    line_words=expand(rules.pairs.output.heldout_lines, **SHARED),
    words=expand(rules.tokenizer.output.words, **SHARED),
    known=expand(rules.pairs.output.known, **SHARED),
    pairs=lambda wildcards: expand(
        getattr(rules.pairs.output, SPLIT_OF[wildcards.on]), **SHARED
    ),
    functions=rules.functions.output.functions,
    acronyms=rules.acronyms.output.acronyms,
)
# Named from the workflow's folder, wherever it is run.
OWN_TABLES = dict(
    terms=os.path.join(workflow.basedir, CONFIG.evaluation.terms),
    opposites=os.path.join(workflow.basedir, CONFIG.evaluation.opposites),
    similarity=os.path.join(workflow.basedir, CONFIG.evaluation.similarity),
    general_text=os.path.join(workflow.basedir, CONFIG.evaluation.general_text),
)
EVALUATE = (
    "commbert evaluate --settings {params.settings:q} {params.subject} --split {params.split} --files {input.files} "
    "--line-words {input.line_words} --words {input.words} --known {input.known} --pairs {input.pairs} "
    "--windows {input.windows} --train-windows {input.train_windows} --windows-tokenizer {input.tokenizer} "
    "--functions {input.functions} --acronyms {input.acronyms} --terms {input.terms:q} "
    "--opposites {input.opposites:q} --similarity {input.similarity:q} --general-text {input.general_text:q} "
    "--out {output.evaluation} --scores-out {output.scores} --threads {threads} --log {log.text} --usage {log.usage}"
)
# The model of a run, and which heads its own training trained.
SUBJECT_OF_RUN = lambda wildcards, input: (
    f"--model {input.model} --pooling {CONFIG.model_of(wildcards.run).pooling}"
    f"{' --trained-head' * CONFIG.training_of(wildcards.run).objectives.has_mlm}"
    f"{' --trained-nsp' * (CONFIG.training_of(wildcards.run).objectives.nsp > 0)}"
)


rule evaluate_base:
    input:
        **WORD_TABLES,
        **OWN_TABLES,
        model=BASE or expand(rules.model.output.folder, run=CONFIG.untrained_run),
        windows=lambda wildcards: expand(
            getattr(rules.list_windows.output, SPLIT_OF[wildcards.on]), **SHARED
        ),
        train_windows=expand(rules.list_windows.output.train, **SHARED),
        tokenizer=expand(rules.tokenizer.output.folder, **SHARED),
    output:
        evaluation=f"results/baselines/{BASELINES[0]}/{{on}}.json",
        scores=f"results/baselines/{BASELINES[0]}/{{on}}.scores.parquet",
    log:
        text=f"results/logs/{{on}}.{BASELINES[0]}.log",
        usage=f"results/logs/{{on}}.{BASELINES[0]}.usage.json",
    benchmark:
        f"results/benchmarks/{{on}}.{BASELINES[0]}.tsv"
    conda:
        "../envs/commbert.yaml"
    threads: CONFIG.runtime.threads
    resources:
        **MEASURING_RESOURCES,
    params:
        settings=lambda wildcards: CONFIG.evaluation.of_figures().as_json(),
        split=lambda wildcards: SPLIT_OF[wildcards.on],
        # A head that the base model's file holds came trained; where it holds none, nothing is measured of it. A model
        # that was drawn anew has heads that nobody trained.
        subject=lambda wildcards, input: (
            f"--model {input.model} --pooling {CONFIG.base_pooling}{' --trained-head' if BASE else ''}"
        ),
        code=code_digest("commbert.stages.evaluate"),
    shell:
        EVALUATE


rule evaluate_vectors:
    input:
        **WORD_TABLES,
        **OWN_TABLES,
        vectors=rules.baseline.output.vectors,
        windows=lambda wildcards: expand(
            getattr(rules.list_windows.output, SPLIT_OF[wildcards.on]), **SHARED
        ),
        train_windows=expand(rules.list_windows.output.train, **SHARED),
        tokenizer=expand(rules.tokenizer.output.folder, **SHARED),
    output:
        evaluation="results/baselines/{kind}/{on}.json",
        scores="results/baselines/{kind}/{on}.scores.parquet",
    log:
        text="results/logs/{on}.{kind}.log",
        usage="results/logs/{on}.{kind}.usage.json",
    benchmark:
        "results/benchmarks/{on}.{kind}.tsv"
    conda:
        "../envs/commbert.yaml"
    threads: CONFIG.runtime.threads
    resources:
        **MEASURING_RESOURCES,
    params:
        settings=lambda wildcards: CONFIG.evaluation.of_figures().as_json(),
        split=lambda wildcards: SPLIT_OF[wildcards.on],
        subject=lambda wildcards, input: f"--vectors {input.vectors}",
        code=code_digest("commbert.stages.evaluate"),
    shell:
        EVALUATE


rule evaluate_frequency:
    input:
        **WORD_TABLES,
        **OWN_TABLES,
        windows=lambda wildcards: expand(
            getattr(rules.list_windows.output, SPLIT_OF[wildcards.on]), **SHARED
        ),
        train_windows=expand(rules.list_windows.output.train, **SHARED),
        tokenizer=expand(rules.tokenizer.output.folder, **SHARED),
    output:
        evaluation="results/baselines/frequency/{on}.json",
        scores="results/baselines/frequency/{on}.scores.parquet",
    log:
        text="results/logs/{on}.frequency.log",
        usage="results/logs/{on}.frequency.usage.json",
    benchmark:
        "results/benchmarks/{on}.frequency.tsv"
    conda:
        "../envs/commbert.yaml"
    threads: CONFIG.runtime.threads
    resources:
        **MEASURING_RESOURCES,
    params:
        settings=lambda wildcards: CONFIG.evaluation.of_figures().as_json(),
        split=lambda wildcards: SPLIT_OF[wildcards.on],
        subject="--by-frequency",
        code=code_digest("commbert.stages.evaluate"),
    shell:
        EVALUATE


rule evaluate_run:
    input:
        **WORD_TABLES,
        **OWN_TABLES,
        model=rules.average_run.output.final,
        windows=lambda wildcards: expand(
            getattr(rules.list_windows.output, SPLIT_OF[wildcards.on]),
            variant=CONFIG.variant_of(wildcards.run),
        ),
        train_windows=lambda wildcards: expand(
            rules.list_windows.output.train, variant=CONFIG.variant_of(wildcards.run)
        ),
        tokenizer=lambda wildcards: expand(
            rules.tokenizer.output.folder, variant=CONFIG.variant_of(wildcards.run)
        ),
    output:
        evaluation="results/runs/{run}/{on}.json",
        scores="results/runs/{run}/{on}.scores.parquet",
    log:
        text="results/logs/{on}.{run}.log",
        usage="results/logs/{on}.{run}.usage.json",
    benchmark:
        "results/benchmarks/{on}.{run}.tsv"
    conda:
        "../envs/commbert.yaml"
    threads: CONFIG.runtime.threads
    resources:
        **MEASURING_RESOURCES,
    params:
        settings=lambda wildcards: CONFIG.evaluation.of_figures().as_json(),
        split=lambda wildcards: SPLIT_OF[wildcards.on],
        subject=SUBJECT_OF_RUN,
        code=code_digest("commbert.stages.evaluate"),
    shell:
        EVALUATE


rule evaluate_average:
    input:
        **WORD_TABLES,
        **OWN_TABLES,
        model=rules.average_share.output.final,
        windows=lambda wildcards: expand(
            getattr(rules.list_windows.output, SPLIT_OF[wildcards.on]),
            variant=CONFIG.variant_of(wildcards.run),
        ),
        train_windows=lambda wildcards: expand(
            rules.list_windows.output.train, variant=CONFIG.variant_of(wildcards.run)
        ),
        tokenizer=lambda wildcards: expand(
            rules.tokenizer.output.folder, variant=CONFIG.variant_of(wildcards.run)
        ),
    output:
        evaluation="results/runs/{run}/averages/{share}/{on}.json",
        scores="results/runs/{run}/averages/{share}/{on}.scores.parquet",
    log:
        text="results/logs/{on}.{run}.{share}.log",
        usage="results/logs/{on}.{run}.{share}.usage.json",
    benchmark:
        "results/benchmarks/{on}.{run}.{share}.tsv"
    conda:
        "../envs/commbert.yaml"
    threads: CONFIG.runtime.threads
    resources:
        **MEASURING_RESOURCES,
    params:
        settings=lambda wildcards: CONFIG.evaluation.of_figures().as_json(),
        split=lambda wildcards: SPLIT_OF[wildcards.on],
        subject=SUBJECT_OF_RUN,
        code=code_digest("commbert.stages.evaluate"),
    shell:
        EVALUATE
