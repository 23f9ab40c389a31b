"""BERT for packed input, written plainly; its weights are those of transformers' BertForPreTraining.

Reference: Devlin et al. 2019, arXiv:1810.04805 (post-LayerNorm, learnt positions, GELU, tied decoder).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import BertConfig

from commbert.errors import ModelError
from commbert.nn.attention import attention
from commbert.nn.dropout import Dropout
from commbert.nn.losses import mlm_loss_sum, nsp_loss_sum
from commbert.nn.packing import Packed
from commbert.nn.products import Linear, linear

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_new": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
}


@dataclass(frozen=True)
class Reading:
    """Which tokens of the last layer are read; the layer is computed nowhere else."""

    tokens: Int[Tensor, "r"] | None
    """Places in the packed row, each once; None: all of them."""
    labels: Int[Tensor, "p"] | None = None
    """The first p of ``tokens`` are hidden ones, to be predicted as these."""
    nsp_labels: Int[Tensor, "q"] | None = None
    """The next q of ``tokens`` are the [CLS] of pairs of sentences, whose second follows the first (0) or not (1)."""
    is_stand_in: bool = False
    """No token is hidden: both labels are predicted from nothing, for losses that use the heads and must not count."""
    trains_head_only: bool = False
    """The losses of MLM and NSP have a gradient for their heads' own parameters, none for encoder and embeddings."""


class Output(NamedTuple):
    """What was read; a tuple, because that is where torch looks for tensors when weights are sharded."""

    mlm_loss_sum: Float[Tensor, ""] | None
    """Cross-entropy of all hidden tokens, in nats; None if there was none."""
    hidden: Float[Tensor, "r h"]
    """Last hidden state of the other tokens that are read."""
    nsp_loss_sum: Float[Tensor, ""] | None = None
    """Cross-entropy of all pairs of sentences, in nats; None if there was none."""


class Layer(nn.Module):
    """Self-attention and feed-forward network, each with residual and LayerNorm after it."""

    key_bias: Tensor

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.n_heads = config.num_attention_heads
        self.attention_dropout = config.attention_probs_dropout_prob
        self.activation = ACTIVATIONS[config.hidden_act]
        self.qkv_weight = nn.Parameter(torch.empty(3 * size, size))
        self.query_bias = nn.Parameter(torch.zeros(size))
        self.value_bias = nn.Parameter(torch.zeros(size))
        # It adds the same to all scores of a query: softmax and loss do not see it, its gradient is rounding noise that
        # Adam would blow up. It is carried along for others and not trained.
        self.register_buffer("key_bias", torch.zeros(size))
        self.attention_out = Linear(size, size)
        self.attention_norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.feed_in = Linear(size, config.intermediate_size)
        self.feed_out = Linear(config.intermediate_size, size)
        self.output_norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(
        self, x: Float[Tensor, "t h"], packed: Packed, tokens: Int[Tensor, "r"] | None = None
    ) -> Float[Tensor, "r_or_t h"]:
        """Return the layer's output, only for ``tokens`` if there are any named."""
        bias = torch.cat([self.query_bias, self.key_bias, self.value_bias])
        qkv = linear(x, self.qkv_weight, bias).unflatten(1, (3, self.n_heads, -1))
        context = attention(qkv, packed, dropout=self.attention_dropout if self.training else 0.0).flatten(1)
        if tokens is not None:
            context, x = context.index_select(0, tokens), x.index_select(0, tokens)
        x = self.attention_norm(x + self.dropout(self.attention_out(context)))
        out: Tensor = self.output_norm(x + self.dropout(self.feed_out(self.activation(self.feed_in(x)))))
        return out


class Bert(nn.Module):
    """Encoder, pooler and both heads."""

    def __init__(self, config: BertConfig) -> None:
        """Make a model with undefined weights; ``commbert.nn.model`` fills them."""
        super().__init__()
        check_config(config)
        size = config.hidden_size
        self.config = config
        self.checkpoints_layers = False
        """Compute each layer's inside again in backward instead of keeping it: less memory, a third more work."""
        self.word_embeddings = nn.Embedding(config.vocab_size, size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, size)
        self.segment_embeddings = nn.Embedding(config.type_vocab_size, size)
        self.embedding_norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.pooler = Linear(size, size)
        self.mlm_dense = Linear(size, size)
        self.mlm_norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.mlm_bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.nsp = Linear(size, 2)

    def set_dropout(self, *, hidden: float | None, attention: float | None) -> None:
        """Replace the dropout that ``config.json`` asks for; None leaves it."""
        for module in self.modules():
            if isinstance(module, nn.Dropout) and hidden is not None:
                module.p = hidden
            if isinstance(module, Layer) and attention is not None:
                module.attention_dropout = attention

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return self.mlm_bias.dtype

    def forward(self, packed: Packed, reading: Reading) -> Output:
        """Encode, predict the hidden tokens, and tell which sentences follow each other."""
        x = self.hidden_states(packed, reading.tokens)
        labels, nsp_labels = reading.labels, reading.nsp_labels
        if labels is None or not len(labels):
            return Output(None, x)
        n = 0 if reading.is_stand_in else len(labels)
        n_read = n if nsp_labels is None or reading.is_stand_in else n + len(nsp_labels)
        hidden, embeddings = x[:n_read], self.word_embeddings.weight
        if reading.is_stand_in:
            hidden, n = torch.zeros_like(x[:1]).expand(2, -1), 1
        if reading.trains_head_only:
            hidden, embeddings = hidden.detach(), embeddings.detach()
        mlm = mlm_loss_sum(self.mlm_features(hidden[:n]), embeddings, self.mlm_bias, labels)
        nsp = None if nsp_labels is None else nsp_loss_sum(self.nsp(self.pooled(hidden[n:])), nsp_labels)
        return Output(mlm, x[n_read:].clone(), nsp)

    def hidden_states(self, packed: Packed, tokens: Int[Tensor, "r"] | None = None) -> Float[Tensor, "r_or_t h"]:
        """Return the last layer's output at ``tokens``, or at all of them."""
        x = self.embedded(packed)
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            read = tokens if i == last else None
            if self.checkpoints_layers and self.training:
                x = checkpoint(layer, x, packed, read, use_reentrant=False)
            else:
                x = layer(x, packed, read)
        return x

    def embedded(self, packed: Packed) -> Float[Tensor, "t h"]:
        """Return the sum of word, position and segment embeddings, normed."""
        x = self.word_embeddings(packed.input_ids) + self.position_embeddings(packed.position_ids)
        x = self.embedding_norm(x + self.segment_embeddings(packed.segment_ids))
        out: Tensor = self.dropout(x)
        return out

    def mlm_features(self, hidden: Float[Tensor, "n h"]) -> Float[Tensor, "n h"]:
        """Return what the tied decoder multiplies with the word embeddings."""
        features: Tensor = self.mlm_norm(ACTIVATIONS[self.config.hidden_act](self.mlm_dense(hidden)))
        return features

    def mlm_logits(self, hidden: Float[Tensor, "n h"]) -> Float[Tensor, "n v"]:
        """Return a logit of each vocabulary entry."""
        return linear(self.mlm_features(hidden), self.word_embeddings.weight, self.mlm_bias)

    def nsp_logits(self, first: Float[Tensor, "n h"]) -> Float[Tensor, "n 2"]:
        """Return the logits (follows, is random) of the sequences whose [CLS] states these are."""
        logits: Tensor = self.nsp(self.pooled(first))
        return logits

    def pooled(self, first: Float[Tensor, "n h"]) -> Float[Tensor, "n h"]:
        """Return what the NSP head reads of the sequences whose [CLS] states these are."""
        return torch.tanh(self.pooler(first))


def check_config(config: BertConfig) -> None:
    """Refuse what is called BERT and computes something else.

    Raises:
        ModelError: If an option is not BERT's.
    """
    if config.hidden_act not in ACTIVATIONS:
        raise ModelError(
            f"config.json hidden_act: expected one of {', '.join(ACTIVATIONS)}, found {config.hidden_act}."
        )
    if config.hidden_size % config.num_attention_heads:
        raise ModelError(
            f"config.json num_attention_heads: expected a divisor of hidden_size {config.hidden_size}, "
            f"found {config.num_attention_heads}."
        )
    position = getattr(config, "position_embedding_type", None) or "absolute"
    if position != "absolute":
        raise ModelError(f"config.json position_embedding_type: expected absolute, found {position}.")
    for name in ("is_decoder", "add_cross_attention"):
        if getattr(config, name, False):
            raise ModelError(f"config.json {name}: expected false (an encoder), found true.")
