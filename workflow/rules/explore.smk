# The words of a run: neighbours beside the model that it started from, vectors for other programs, a map.


rule explore_run:
    input:
        # Unless the run starts from another one, the base as it was before its embeddings grew.
        base=lambda wildcards: (
            CONFIG.start_of(wildcards.run)
            or BASE
            or expand(rules.model.output.folder, run=name_and_seed(wildcards.run)[0])
        ),
        model=rules.average_run.output.final,
        words=lambda wildcards: expand(
            rules.tokenizer.output.words, variant=CONFIG.variant_of(wildcards.run)
        ),
        corpus_words=rules.words.output.words,
        files=rules.corpus.output.files,
        shards=rules.corpus.output.shards,
        lexed=expand("results/lex/{shard}", shard=SHARDS),
    output:
        vectors="results/runs/{run}/vectors/vectors.parquet",
        projector_vectors="results/runs/{run}/vectors/projector.vectors.tsv",
        projector_metadata="results/runs/{run}/vectors/projector.metadata.tsv",
        word2vec="results/runs/{run}/vectors/vectors.word2vec.txt",
        map="results/runs/{run}/map.json",
        summary="results/runs/{run}/explore.json",
        page=report(
            "reports/{run}_neighbours.html",
            caption="../report/neighbours.rst",
            category="Reports",
            labels={"run": "{run}", "format": "Neighbours of words"},
        ),
        figure=report(
            "reports/figures/{run}_map.svg",
            caption="../report/map.rst",
            category="Figures",
            labels={"run": "{run}", "figure": "map of words"},
        ),
    log:
        text="results/logs/explore.{run}.log",
        usage="results/logs/explore.{run}.usage.json",
    benchmark:
        "results/benchmarks/explore.{run}.tsv"
    conda:
        "../envs/commbert.yaml"
    threads: CONFIG.runtime.threads
    resources:
        **MEASURING_RESOURCES,
    params:
        # Functions: braces in a value are no wildcards.
        settings=lambda wildcards: CONFIG.explore.as_json(),
        base_pooling=lambda wildcards: CONFIG.start_pooling_of(wildcards.run),
        base_name=lambda wildcards: CONFIG.told_start_of(wildcards.run),
        pooling=lambda wildcards: CONFIG.model_of(wildcards.run).pooling,
        telling=lambda wildcards: [
            f"--telling={word}" for word in CONFIG.evaluation.telling_words
        ],
        lexed=expand("--lexed=results/lex/{shard}", shard=SHARDS),
        code=code_digest("commbert.stages.explore"),
        templates=templates_digest(),
    shell:
        "commbert explore --settings {params.settings:q} --run {wildcards.run} --base {input.base} "
        "--base-pooling {params.base_pooling} --base-name {params.base_name:q} --model {input.model} --pooling {params.pooling} {params.telling:q} "
        "--words {input.words} --corpus-words {input.corpus_words} --files {input.files} --shards {input.shards} "
        "{params.lexed:q} --vectors-out {output.vectors} --projector-vectors-out {output.projector_vectors} "
        "--projector-metadata-out {output.projector_metadata} --word2vec-out {output.word2vec} "
        "--page-out {output.page} --map-out {output.map} --figure-out {output.figure} "
        "--summary-out {output.summary} --threads {threads} --log {log.text} --usage {log.usage}"
