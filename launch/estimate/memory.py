"""Bytes of one rank by kind, for every ZeRO stage and micro-batch, at the moments when most is held.

What the engine holds (docs/engine.md; P parameters, N ranks, bf16 / fp32):

    stage   weights      gradients           master weights and moments    buffers that stay
    0       2P / 4P      4P + 2P / 4P        12P / 8P
    1       2P / 4P      4P + 2P / 4P/N      12P/N
    2       2P / 4P      4P/N                12P/N
    3       2P/N / 4P/N  4P/N                12P/N                          a bucket in float32, norms gathered

At stages 0 and 1 in bf16, DeepSpeed's BF16_Optimizer sums in float32 and also keeps the bf16 gradients of a backward
pass until the update. In fp32, stage 1 reduces after the last micro-batch: with accumulation it holds all gradients.

Moments: `loss` (all activations, the logits, the head's gradient), `backward` (the block that goes backward first),
`update` (all gradients, no activations). The parts of the largest of them are reported.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from launch.estimate.activations import activation_bytes, bytes_per_token
from models.config import DecoderConfig

if TYPE_CHECKING:
    from train.settings import TrainSettings

PERSISTENT = 100_000
"""Stage 3: parameters of up to this many elements stay gathered (DeepSpeed's stage3_param_persistence_threshold)."""
LIVE = 1_000_000_000
"""Stage 3: elements that may stay gathered during a step (DeepSpeed's stage3_max_live_parameters)."""
KINDS = ("weights", "gradients", "optimizer", "activations", "logits", "buffers")


@dataclass(frozen=True)
class Held:
    """Bytes of a rank that do not depend on the micro-batch."""

    weights: int
    gradients: int
    """At the end of a step's last backward pass."""
    between: int
    """Gradients between the micro-batches of a step, and during the forward pass."""
    optimizer: int
    """Master weights and moments, and the running average if there is one."""
    buffers: int
    host: int = 0
    """In host memory instead, if offloaded."""

    @property
    def total(self) -> int:
        """All at the end of a step's last backward pass."""
        return self.weights + self.gradients + self.optimizer + self.buffers


@dataclass(frozen=True)
class Memory:
    """Bytes of a rank by kind at the moment when it holds most."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    """Logits of a chunk, and gradients of the head and of its input."""
    buffers: int
    """Communication buckets, gathered weights, gradients in flight."""
    moment: str
    host: int

    @property
    def total(self) -> int:
        """The peak."""
        return sum(getattr(self, kind) for kind in KINDS)


def held(settings: TrainSettings, decoder: DecoderConfig, ranks: int, accumulation: int) -> Held:
    """Return what a rank holds of weights, gradients and optimizer state, padding left out."""
    zero, bf16 = settings.zero, settings.precision == "bf16"
    element, parameters = 2 if bf16 else 4, decoder.parameter_count()
    share = -(-parameters // ranks)
    weights = element * (share if zero.stage == 3 else parameters)
    sums = 4 * (parameters if zero.stage == 0 or (bf16 and zero.stage == 1) else share)
    working = 2 * parameters if bf16 and zero.stage < 2 else 0
    gradients = sums + working
    kept = sums if (bf16 and zero.stage < 2) or zero.stage == 3 else 0
    between = kept
    if accumulation > 1:
        between = 4 * parameters if not bf16 and zero.stage < 2 else gradients
    optimizer = 12 * (share if zero.stage else parameters) if bf16 or zero.stage else 8 * parameters
    optimizer += 4 * share if settings.averaging.decay else 0
    buffers = 0
    if zero.stage == 3:
        buffers = 4 * (zero.bucket_mb * 1_000_000 // element) + element * persistent(decoder)
    made = Held(weights, gradients, between, optimizer, buffers)
    return _offloaded(made, settings)


def _offloaded(made: Held, settings: TrainSettings) -> Held:
    """Move to host memory what is offloaded; on NVMe, gradients wait there for the update."""
    zero = settings.zero
    if zero.offload_optimizer != "none":
        host = made.gradients + (made.optimizer if zero.offload_optimizer == "cpu" else 0)
        made = replace(made, gradients=0, between=0, optimizer=0, host=made.host + host)
    if zero.offload_param != "none":
        host = made.weights if zero.offload_param == "cpu" else 0
        made = replace(made, weights=0, host=made.host + host)
    return made


def persistent(decoder: DecoderConfig) -> int:
    """Return the parameters that stage 3 keeps gathered on every rank."""
    width, key_width = decoder.width, decoder.kv_heads * decoder.head_size
    query_width = decoder.heads * decoder.head_size
    block = [width, width, *[width * query_width] * 2, *[width * key_width] * 2, *[width * decoder.ffn] * 3]
    ends = [decoder.vocab_size * width] * (1 if decoder.tie_embeddings else 2)
    sizes = [*block * decoder.layers, width, *ends]
    return sum(size for size in sizes if size <= PERSISTENT)


def memory(
    settings: TrainSettings, decoder: DecoderConfig, seq_len: int, ranks: int, micro_batch: int, accumulation: int
) -> Memory:
    """Return the memory of one rank at its peak in a training step."""
    element = 2 if settings.precision == "bf16" else 4
    tokens = micro_batch * seq_len
    states = held(settings, decoder, ranks, accumulation)
    kept = activation_bytes(decoder, settings.execution, micro_batch, seq_len, element)
    stream, head = tokens * decoder.width * element, decoder.vocab_size * decoder.width
    gathered = _gathered(settings, decoder, element)
    logits = _loss(settings, decoder, tokens, element)
    block = _block_backward(settings, decoder, tokens, element)
    base = Memory(
        states.weights, states.between, states.optimizer, kept, logits, states.buffers + gathered, "loss", states.host
    )
    bucket = _bucket(settings, decoder, element, ranks)
    first = element * head if states.between in (0, 4 * decoder.parameter_count()) else 0
    backward = replace(
        base,
        moment="backward",
        activations=kept,
        logits=stream + first,
        buffers=base.buffers + block + (0 if settings.zero.stage < 2 else bucket),
    )
    update = replace(
        base, moment="update", activations=0, logits=0, gradients=states.gradients, buffers=states.buffers + bucket
    )
    return max((base, backward, update), key=lambda one: one.total)


def _loss(settings: TrainSettings, decoder: DecoderConfig, tokens: int, element: int) -> int:
    """Return the bytes of the loss at its peak (models/losses/cross_entropy.py), with plain kernels on a GPU."""
    from models.losses.cross_entropy import CHUNK_LOGITS

    head, stream = decoder.vocab_size * decoder.width, tokens * decoder.width
    chunk = min(tokens, max(1, CHUNK_LOGITS * 4 // element // decoder.vocab_size))
    weight = head * (element if chunk == tokens else 4)
    in_float = 4 if element == 2 and settings.execution.kernels != "liger" else 0
    forward = chunk * decoder.vocab_size * (element + in_float) + stream * element
    scaled_weight = head * (4 if element == 4 else 8 if chunk == tokens else 6)
    scaled_stream = stream * (8 if element == 2 else 4)
    forward += 0 if chunk == tokens else weight  # a single chunk's gradient follows its logits
    return stream * element + max(forward, weight + max(scaled_weight, scaled_stream))


def _block_backward(settings: TrainSettings, decoder: DecoderConfig, tokens: int, element: int) -> int:
    """Return the bytes in flight while the last block goes backward, and its activations if they are recomputed."""
    again = 0
    if settings.execution.checkpointing != "none":
        mode = "selective" if settings.execution.checkpointing == "selective" else "full"
        again = bytes_per_token(decoder, "none", element) - bytes_per_token(decoder, mode, element)
    return tokens * (again + element * 3 * decoder.ffn)


def _gathered(settings: TrainSettings, decoder: DecoderConfig, element: int) -> int:
    """Return the bytes of the weights that stage 3 holds gathered during a step, at most."""
    return element * min(decoder.parameter_count(), LIVE) if settings.zero.stage == 3 else 0


def _bucket(settings: TrainSettings, decoder: DecoderConfig, element: int, ranks: int) -> int:
    """Return the bytes of the buckets in which gradients are reduced; stage 3 has its own all the time."""
    if settings.zero.stage == 3 or ranks == 1:
        return 0
    elements = min(settings.zero.bucket_mb * 1_000_000 // element, decoder.parameter_count())
    return 4 * elements * (2 if settings.zero.stage == 2 and settings.zero.overlap_comm else 1)
