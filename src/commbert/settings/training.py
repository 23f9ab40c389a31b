"""Settings of the stage ``train``: all of these change the result (those that do not stand in ``runtime``)."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from commbert.settings.base import Fraction, Section, Seed

Positive = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]


class Objectives(Section):
    """Weights of one loss; the reference method's beta is ``mlm``, and ``contrastive`` is 1 - beta."""

    mlm: NonNegative = 0.7
    """Weight of the masked-language-model loss."""
    contrastive: NonNegative = 0.3
    """Weight of the InfoNCE loss over word pairs."""

    nsp: NonNegative = 0.0
    """Weight of next-sentence prediction (Devlin et al. 2019, arXiv:1810.04805, section 3.1): windows are then read in
    pairs, half of them with the next window of the file that shares no token with the first, half with one of another
    file. A pair holds two windows and three special tokens, so ``windows.max_length`` is half of the positions at most.
    """
    mlm_end: NonNegative | None = None
    """Weight of MLM at the last step: it moves there along half a cosine, and ``contrastive`` takes the rest of their
    sum (the reference method's beta schedule). null = both stay as they are."""

    @model_validator(mode="after")
    def _one_is_positive(self) -> "Objectives":
        if self.mlm == 0 and self.contrastive == 0:
            more = " (nsp stands beside mlm: its sentences are the masked windows)" if self.nsp else ""
            raise ValueError(f"at least one of mlm and contrastive needs a weight above 0{more}")
        if self.mlm_end is not None and self.mlm_end > self.mlm + self.contrastive:
            raise ValueError(
                f"mlm_end must be mlm + contrastive = {self.mlm + self.contrastive:g} at most, found {self.mlm_end:g}"
            )
        if self.nsp and not self.has_mlm:
            raise ValueError("nsp needs mlm above 0: its sentences are the masked windows")
        return self

    @property
    def has_mlm(self) -> bool:
        """Whether MLM has a weight at some step."""
        return self.mlm > 0 or bool(self.mlm_end)

    @property
    def has_contrastive(self) -> bool:
        """Whether the pair loss has a weight at some step."""
        return self.contrastive > 0 or (self.mlm_end is not None and self.mlm_end < self.mlm)


class Masking(Section):
    """Which tokens are hidden (Devlin et al. 2019, arXiv:1810.04805, section 3.1)."""

    rate: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.15
    """Share of a window's tokens that are predicted; at least one per window."""
    mask: Fraction = 0.8
    """Of these, the share replaced by [MASK]."""
    random: Fraction = 0.1
    """Of these, the share replaced by a random token; the rest stays as it is."""

    @model_validator(mode="after")
    def _shares_sum_to_one_at_most(self) -> "Masking":
        if self.mask + self.random > 1.0 + 1e-9:
            raise ValueError(f"mask + random must be 1 at most, found {self.mask + self.random:g}")
        return self


class Contrastive(Section):
    """InfoNCE over the words of a step (van den Oord et al. 2018, arXiv:1807.03748, eq. 4)."""

    temperature: Annotated[float, Field(ge=0.005, le=10.0)] = 0.05
    """Divides the cosine; typical 0.02 to 0.1."""
    temperature_learning_rate: Positive | None = None
    """Rate at which the logarithm of the temperature is learnt, from ``temperature`` on; null = it stays fixed."""
    temperature_min: Annotated[float, Field(ge=0.001)] = 0.01
    """A learnt temperature stays above; below it a few pairs decide everything (CLIP's bound, arXiv:2103.00020)."""
    temperature_max: Annotated[float, Field(le=100.0)] = 1.0
    """A learnt temperature stays below."""
    symmetric: bool = True
    """Also find the anchor from its positive."""
    mask_known_positives: bool = True
    """Words known to share a training line with the anchor are no negatives for it."""
    hardest: Annotated[int, Field(ge=1)] | None = None
    """Only so many negatives of an anchor take part, of the whole step those of the highest cosine (Schroff et al.
    2015, arXiv:1503.03832, section 3.2); null = all."""
    hardness: Annotated[float, Field(ge=0.0, le=100.0)] = 0.0
    """A negative counts in proportion to exp(hardness * cosine / temperature) (Robinson et al. 2021, arXiv:2010.04592,
    eq. 4, their beta); 0 = all count alike. Typical 0.1 to 1."""
    pair_weights: Literal["none", "pmi"] = "none"
    """``pmi``: the loss of a pair is multiplied by its positive pointwise mutual information in the table of training
    pairs, over the mean of that over the table (Church and Hanks 1990): chance neighbours count less. The sum is
    divided by the number of anchors all the same."""
    projection: Literal["none", "linear", "mlp"] = "none"
    """A head on the word vectors that only the pair loss sees (Chen et al. 2020, arXiv:2002.05709, section 2.1):
    validation and the exported models use the vectors before it. ``mlp`` has one hidden layer."""
    projection_size: Annotated[int, Field(ge=2, le=65536)] | None = None
    """Numbers that the head makes of a vector; null = as many as it takes."""

    @model_validator(mode="after")
    def _size_is_of_a_projection(self) -> "Contrastive":
        if self.projection_size is not None and self.projection == "none":
            raise ValueError(
                f"projection_size {self.projection_size} needs a projection: linear or mlp, found none. Use null"
            )
        return self

    @model_validator(mode="after")
    def _starts_within_bounds(self) -> "Contrastive":
        if self.temperature_min >= self.temperature_max:
            raise ValueError("temperature_min must be below temperature_max")
        learnt = self.temperature_learning_rate is not None
        if learnt and not self.temperature_min <= self.temperature <= self.temperature_max:
            raise ValueError(
                f"temperature must start between temperature_min {self.temperature_min:g} and temperature_max "
                f"{self.temperature_max:g}, found {self.temperature:g}"
            )
        return self


class Optimizer(Section):
    """AdamW with warm-up and a schedule."""

    learning_rate: Positive = 2.0e-5
    """Peak rate of encoder and embeddings."""
    head_learning_rate: Positive | None = None
    """Peak rate of the MLM head's transform (its decoder is tied to the embeddings) and of the pair loss's projection;
    null = ``learning_rate``."""
    weight_decay: NonNegative = 0.01
    """Decay of matrices; biases and LayerNorm have none."""
    beta1: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    """Decay of the first moment."""
    beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999
    """Decay of the second moment."""
    epsilon: Positive = 1.0e-8
    """Added to the root of the second moment."""
    schedule: Literal["linear", "cosine", "constant", "plateau"] = "linear"
    """After the warm-up: linear or along half a cosine to 0; constant; plateau = times ``plateau_factor`` whenever
    ``plateau_patience`` validations brought no better ``best_metric``."""
    plateau_factor: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """What the rate is multiplied by on a plateau."""
    plateau_patience: Annotated[int, Field(ge=1)] = 3
    """Validations without gain that make a plateau."""
    warmup_fraction: Fraction = 0.1
    """Share of the steps in which the rate rises linearly from 0."""
    max_gradient_norm: Positive = 1.0
    """Gradients with a larger 2-norm are scaled down to it."""


class TrainingSettings(Section):
    """One training run."""

    objectives: Objectives = Objectives()
    """Weights of the losses."""
    masking: Masking = Masking()
    """Dynamic masking: drawn anew in every epoch."""
    contrastive: Contrastive = Contrastive()
    """The word-pair loss."""
    optimizer: Optimizer = Optimizer()
    """Optimizer and schedule."""
    trainable: Literal["all", "mlm_head"] = "all"
    """``mlm_head`` freezes encoder and embeddings: the honest MLM baseline for a base model without a head."""
    head_only_steps: Annotated[int, Field(ge=0)] = 0
    """In so many first steps the MLM loss trains its head alone, and so does NSP: the gradient of a head that was drawn
    anew is noise, and distorts what the encoder knows (Kumar et al. 2022, arXiv:2202.10054). The pair loss trains the
    encoder all along."""
    epochs: Annotated[int, Field(ge=1, le=100_000)] = 30
    """Passes over the stream named by ``epoch``."""
    epoch: Literal["windows", "pairs", "longer"] = "windows"
    """The stream that an epoch covers once; the other stream goes on in its own rhythm and is never cut."""
    max_steps: Annotated[int, Field(ge=1)] | None = None
    """Stop after this many steps, whatever the epochs say; the schedule ends there too. null = no limit."""
    batch_windows: Annotated[int, Field(ge=1, le=65536)] = 64
    """Windows of a step, all processes together; with NSP, pairs of windows."""
    batch_pairs: Annotated[int, Field(ge=1, le=65536)] = 64
    """Positive pairs of a step, all processes together; all their words are negatives for each other."""
    batch_texts: Annotated[int, Field(ge=0, le=65536)] = 0
    """Pairs of texts of a step (a brief and its function, an acronym and its expansion), all processes together, beside
    the word pairs and in one loss with them; 0 = none."""
    batch_per_process: bool = False
    """True: the batch sizes are per process (the reference method), so the result depends on their number."""
    micro_batches: Annotated[int, Field(ge=1, le=1024)] = 4
    """A step is computed in at least this many parts of about as many tokens; processes share them out, so there can
    be no more processes than this. With ``batch_per_process`` it is per process, as the batch sizes are. The result
    does not depend on who computes what."""
    micro_batch_tokens: Annotated[int, Field(ge=512)] = 16384
    """Tokens of a part at most, about: a larger step is computed in more parts. What memory allows, not what is best:
    the result does not depend on it but for rounding and dropout."""
    hidden_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """Dropout after embeddings and layers; null = as the base model says."""
    attention_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """Dropout of attention probabilities; null = as the base model says. 0 opens the fastest way on a GPU."""
    validate_every_steps: Annotated[int, Field(ge=1)] | Literal["epoch"] = 100
    """Steps between two validations, which choose ``best/``; ``epoch`` = one at the end of each epoch of the stream
    that the setting ``epoch`` names. The last step is always validated."""
    validation_windows: Annotated[int, Field(ge=1)] = 128
    """Windows of the validation split that a validation reads."""
    validation_pairs: Annotated[int, Field(ge=10)] = 1000
    """Pairs of the validation split that a validation reads."""
    validation_queries: Annotated[int, Field(ge=1)] = 500
    """Words of the validation split that look for their same-line partners in a validation, at most."""
    validation_candidates: Annotated[int, Field(ge=2)] = 2000
    """Words of the code among which they look: the partners and a draw of others. It is what a validation costs: all
    of them are encoded each time."""
    best_metric: Literal[
        "hard", "auc_frequency_matched_novel", "retrieval_mrr", "auc_frequency_matched", "mlm_loss"
    ] = "hard"
    """Chooses ``best/``, the plateau and the early stop. ``hard``: mean of ``auc_frequency_matched_novel`` (against
    code words of the same frequency, pairs of no training line only) and ``retrieval_mrr`` (novel partners among
    ``validation_candidates``); ``mlm_loss`` where only MLM is trained."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Stop after this many validations without a better ``best_metric``; null = never."""
    min_gain: NonNegative = 0.0
    """A validation counts as better only if it gains more than this."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """``auto``: bf16 autocast on GPUs that have it, else fp32. bf16 is faster on a CPU that has it too, and refused on
    one that has not (there it is 20 times slower)."""
    seed: Seed = 17
    """Decides order, masks and dropout."""

    @property
    def reads_texts(self) -> bool:
        """Whether pairs of texts take part."""
        return bool(self.batch_texts) and self.objectives.has_contrastive

    @model_validator(mode="after")
    def _frozen_encoder_trains_mlm_only(self) -> "TrainingSettings":
        if self.trainable == "mlm_head" and self.objectives.has_contrastive:
            raise ValueError("trainable: mlm_head needs objectives.contrastive: 0 (the pair loss has no head to train)")
        if self.trainable == "mlm_head" and self.objectives.nsp:
            raise ValueError("trainable: mlm_head needs objectives.nsp: 0 (its head is another one)")
        return self
