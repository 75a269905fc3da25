"""The decoder's shape, with its parameter and FLOP counts in closed form."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from models.setting import BINDS, FREE, fixed

ATTENTION_BACKENDS = (
    "flash",
    "varlen",
    "flex",
    "blocks",
    "sdpa",
    "reference",
)
"""The attention backends, each in `models/attention/NAME.py`; `auto` tries them in this order."""

ROPE_SCALINGS = ("none", "linear", "ntk", "llama3")
"""RoPE scaling methods (models/rotary.py)."""


LORA_TARGETS = ("q", "k", "v", "o", "gate", "up", "down")
"""Matrices of a block that can have an adapter (models/lora.py)."""


@dataclass(frozen=True)
class Lora:
    """Which matrices of every block have an adapter, and its size."""

    rank: int
    alpha: float
    targets: tuple[str, ...]
    """Some of LORA_TARGETS."""

    @property
    def scale(self) -> float:
        """Factor of the product."""
        return self.alpha / self.rank

    def parameter_count(self, config: DecoderConfig) -> int:
        """Return the number of trained parameters."""
        queries, keys = config.heads * config.head_size, config.kv_heads * config.head_size
        sides = {"q": queries + config.width, "k": keys + config.width, "v": keys + config.width}
        sides |= {"o": queries + config.width, **dict.fromkeys(("gate", "up", "down"), config.width + config.ffn)}
        return config.layers * self.rank * sum(sides[name] for name in self.targets)


@dataclass(frozen=True)
class ParameterCounts:
    """Parameters of a decoder by role; they sum to `total`."""

    embedding: int
    attention: int
    """The four projections of every block."""
    ffn: int
    """The three matrices of every block."""
    norm: int
    """Two norms per block and the final norm."""
    head: int
    """0 with tied embeddings."""

    @property
    def body(self) -> int:
        """Everything but embedding and head: the blocks and the final norm."""
        return self.attention + self.ffn + self.norm

    @property
    def total(self) -> int:
        """All parameters."""
        return self.embedding + self.body + self.head


SHAPE = fixed("the checkpoint's weights do not fit a model of another shape")


@dataclass(frozen=True)
class DecoderSettings:
    """What one chooses of a decoder; the tokens add their vocabulary and sequence length (`DecoderConfig`)."""

    layers: int = field(metadata=SHAPE)
    """Number of blocks."""
    width: int = field(metadata=SHAPE)
    """Size of the residual stream."""
    heads: int = field(metadata=SHAPE)
    """Query heads. The head size is `width / heads` unless `explicit_head_size` sets it, and must be even."""
    kv_heads: int = field(metadata=SHAPE)
    """Key and value heads; divides `heads`."""
    ffn: int = field(metadata=SHAPE)
    """Inner size of the SwiGLU feed-forward network."""
    rope_theta: float = field(default=10000.0, metadata=BINDS)
    """Base of the rotary frequencies."""
    rope_scaling: str = field(default="none", metadata=BINDS)
    """RoPE scaling for longer contexts: none, linear, ntk or llama3."""
    rope_factor: float = field(default=1.0, metadata=BINDS)
    """RoPE scaling factor, above 1 unless `rope_scaling` is none."""
    rope_original_seq_len: int | None = field(default=None, metadata=BINDS)
    """llama3 only: sequence length in tokens before scaling (8192 in Llama 3)."""
    rope_low_factor: float | None = field(default=None, metadata=BINDS)
    """llama3 only: wavelengths above `rope_original_seq_len` over this are scaled in full (1 in Llama 3)."""
    rope_high_factor: float | None = field(default=None, metadata=BINDS)
    """llama3 only: wavelengths below `rope_original_seq_len` over this are not scaled (4 in Llama 3)."""
    norm_eps: float = field(default=1e-5, metadata=BINDS)
    """Added to the mean square in RMSNorm."""
    tie_embeddings: bool = field(default=False, metadata=SHAPE)
    """Use the embedding matrix as the head."""
    attention: str = field(default="auto", metadata=FREE)
    """Attention backend by name. It changes speed, and losses only by rounding."""
    z_loss: float = field(default=0.0, metadata=BINDS)
    """Weight of logsumexp(logits)^2 added to the cross-entropy to keep logits small (PaLM, arXiv 2204.02311: 1e-4)."""


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(DecoderSettings):
    """A Llama-family decoder: RMSNorm, rotary positions, SwiGLU, grouped-query attention."""

    vocab_size: int
    """Rows of the embedding and of the head."""
    max_seq_len: int
    """Longest sequence, in tokens, that the model is trained for (written to exports)."""
    end_of_text: int | None = None
    """Token that starts a document: attention never looks back past it. None: one document per sequence."""
    input_only: int | None = None
    """Token that is an input but never a label, such as BOS; None: no such token."""
    explicit_head_size: int | None = None
    """Head size if it is not `width / heads` (Hugging Face: head_dim)."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if item.type == "int" and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ValueError(f"model.{item.name} must be an integer of at least 1, not {value!r}")
        if self.explicit_head_size is None and (self.width % self.heads or self.head_size % 2):
            raise ValueError(
                f"model.width={self.width} must be an even multiple of model.heads={self.heads} (even head size)"
            )
        if self.head_size < 2 or self.head_size % 2:
            raise ValueError(f"model.explicit_head_size={self.explicit_head_size} must be even and at least 2")
        if self.heads % self.kv_heads:
            raise ValueError(f"model.kv_heads={self.kv_heads} must divide model.heads={self.heads}")
        for key in ("end_of_text", "input_only"):
            token = getattr(self, key)
            if token is not None and not 0 <= token < self.vocab_size:
                raise ValueError(f"model.{key}={token} is outside the vocabulary of {self.vocab_size}")
        known = ("auto", *ATTENTION_BACKENDS)
        if self.attention not in known:
            raise ValueError(f"model.attention={self.attention!r} is unknown: use one of {', '.join(known)}")
        if not 0.0 <= self.z_loss < 1.0:
            raise ValueError(f"model.z_loss={self.z_loss} must lie in [0, 1): 0 switches it off, 1e-4 is PaLM's")
        self._check_rope()

    def _check_rope(self) -> None:
        if self.rope_theta <= 0:
            raise ValueError(f"model.rope_theta={self.rope_theta} must be above 0")
        if self.rope_scaling not in ROPE_SCALINGS:
            raise ValueError(
                f"model.rope_scaling={self.rope_scaling!r} is unknown: use one of {', '.join(ROPE_SCALINGS)}"
            )
        if self.rope_scaling == "none" and self.rope_factor != 1:
            raise ValueError(f"model.rope_factor={self.rope_factor} has no effect: set model.rope_scaling too")
        if self.rope_scaling != "none" and not self.rope_factor > 1:
            raise ValueError(f"model.rope_factor={self.rope_factor} must be above 1 with {self.rope_scaling} scaling")
        if self.rope_scaling == "ntk" and self.head_size < 4:
            raise ValueError(
                f"model.rope_scaling=ntk needs a head size of at least 4, not {self.head_size}: use linear"
            )
        extra = ("rope_original_seq_len", "rope_low_factor", "rope_high_factor")
        original, low, high = (getattr(self, key) for key in extra)
        if self.rope_scaling != "llama3":
            for key in extra:
                if getattr(self, key) is not None:
                    raise ValueError(
                        f"model.{key}={getattr(self, key)} has no effect: it needs model.rope_scaling=llama3"
                    )
        elif original is None or low is None or high is None or not (original >= 1 and 0 < low < high):
            raise ValueError(
                "model.rope_scaling=llama3 needs rope_original_seq_len of at least 1 and rope_low_factor between 0 and "
                f"rope_high_factor, not {original}, {low} and {high}"
            )

    @property
    def head_size(self) -> int:
        """Size of one attention head."""
        return self.width // self.heads if self.explicit_head_size is None else self.explicit_head_size

    def parameters(self) -> ParameterCounts:
        """Return the number of parameters by role, in closed form."""
        query_width, kv_width = self.heads * self.head_size, self.kv_heads * self.head_size
        matrix = self.vocab_size * self.width
        return ParameterCounts(
            embedding=matrix,
            attention=self.layers * 2 * self.width * (query_width + kv_width),
            ffn=self.layers * 3 * self.width * self.ffn,
            norm=(2 * self.layers + 1) * self.width,
            head=0 if self.tie_embeddings else matrix,
        )

    def parameter_count(self, *, embeddings: bool = True) -> int:
        """Return the number of parameters, with or without the embedding and head matrices."""
        counts = self.parameters()
        return counts.total if embeddings else counts.body

    def operations_per_token(self, seq_len: int, *, causal: bool = False) -> int:
        """Return the FLOPs of one token's forward and backward pass in a sample of `seq_len` tokens.

        6 per parameter in a matrix product (all but the embedding and the norms; a tied head counts), plus 12 * layers
        * query width * seq_len for attention over the whole sample: the convention of llm-foundry, torchtitan and
        the flash-attention papers. `causal` halves attention, as Megatron-core has done since 2025: no token attends
        ahead. Recomputed activations are not added, and short documents are not subtracted.
        """
        counts = self.parameters()
        products = counts.attention + counts.ffn + self.vocab_size * self.width
        attention = 12 * self.layers * self.heads * self.head_size * seq_len
        return 6 * products + (attention // 2 if causal else attention)
