"""The decoder's shape, and the number of parameters and operations that follow from it."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class DecoderConfig:
    """A Llama-family decoder: RMSNorm, rotary positions, SwiGLU, grouped-query attention."""

    vocab_size: int
    """Rows of the embedding and of the head."""
    layers: int
    """Number of blocks."""
    width: int
    """Size of the residual stream."""
    heads: int
    """Query heads; `width / heads` is the head size and must be even."""
    kv_heads: int
    """Key and value heads; divides `heads`."""
    ffn: int
    """Inner size of the SwiGLU feed-forward network."""
    max_seq_len: int
    """Longest sequence in tokens that the model is trained for (written into exports)."""
    rope_theta: float = 10000.0
    """Base of the rotary frequencies."""
    norm_eps: float = 1e-5
    """Added to the mean square in RMSNorm."""
    tie_embeddings: bool = False
    """Use the embedding matrix as the head."""
    end_of_text: int | None = None
    """Token that starts a document: attention never looks behind it. None: one document a sequence."""
    z_loss: float = 0.0
    """Weight of logsumexp(logits)^2 beside the cross-entropy, keeping logits small (PaLM, arXiv 2204.02311: 1e-4)."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int" and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ValueError(f"model.{field.name} must be a whole number of at least 1, not {value!r}")
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(
                f"model.width={self.width} must be an even multiple of model.heads={self.heads} (even head size)"
            )
        if self.heads % self.kv_heads:
            raise ValueError(f"model.kv_heads={self.kv_heads} must divide model.heads={self.heads}")
        if self.end_of_text is not None and not 0 <= self.end_of_text < self.vocab_size:
            raise ValueError(f"model.end_of_text={self.end_of_text} is outside the vocabulary of {self.vocab_size}")
        if not 0.0 <= self.z_loss < 1.0:
            raise ValueError(f"model.z_loss={self.z_loss} must lie in [0, 1): 0 switches it off, 1e-4 is PaLM's")

    @property
    def head_size(self) -> int:
        """Size of one attention head."""
        return self.width // self.heads

    def parameter_count(self, *, embeddings: bool = True) -> int:
        """Return the number of parameters, with or without the embedding and head matrices."""
        kv_width = self.kv_heads * self.head_size
        attention = 2 * self.width * self.width + 2 * self.width * kv_width
        block = attention + 3 * self.width * self.ffn + 2 * self.width
        body = self.layers * block + self.width
        if not embeddings:
            return body
        return body + self.vocab_size * self.width * (1 if self.tie_embeddings else 2)
