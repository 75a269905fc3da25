"""Least memory of a run, computed before anything is built; a run that cannot fit is rejected.

Bytes per parameter on one of N ranks, in bf16 / fp32 (ZeRO: Rajbhandari et al., arXiv 1910.02054, section 3; here with
float32 sums of gradients, and DeepSpeed's float32 master weights at stages 1 to 3 in fp32 too):

    stage   weights      gradients     master weights and moments
    0       2 / 4        4 / 4         12 / 8
    1       2 / 4        4 / 4         12/N
    2       2 / 4        4/N           12/N
    3       2/N / 4/N    4/N           12/N

(Stage 1 in fp32 reduces gradients as they are computed when nothing is accumulated: 4/N then.)

Bytes of activations per token and layer (as in Korthikanti et al., arXiv 2205.05198, section 4.1, for this decoder;
docs/hot-path.md counts them): e * (4W + 2Q + 2K + 3F), e bytes per element, W width, Q and K width of queries and of
keys, F inner size. Recomputed blocks keep e * W, and `selective` keeps what attention needs.

ZeRO 3 gathers whole parameters for use: the head for the loss; for an evaluation at least embedding, head and one block
(train/engine/gathered.py). A held-out batch keeps nothing for a backward pass: its stream, and e * 3F per token where
the feed-forward multiplies.

Everything is a lower bound: it excludes the libraries and their heaps (0.4 GB per process on the CPU), communication
buffers and allocator overhead. tests/train/memory/test_footprint.py measures the difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from curriculum.order.split import Split, divisors
from models.config import DecoderConfig
from train.memory.available import AvailableMemory
from train.settings import TrainSettings


@dataclass(frozen=True)
class Footprint:
    """Least bytes of one rank by purpose, in the memory where the model computes; `host` in host memory next to it."""

    weights: int
    gradients: int
    optimizer: int
    """Master weights and moments, and the running average if one is kept."""
    activations: int
    logits: int
    """One chunk of logits, and the gradients of the head and of its input."""
    evaluation: int
    """A held-out batch, and the weights gathered for it at ZeRO 3."""
    training: int
    """All of a training step at its peak: memory freed before is not included."""
    evaluating: int
    """All at the peak of an evaluation."""
    host: int
    """Bytes of this rank in host memory when it computes on a GPU: building the weights, and what is offloaded."""

    @property
    def total(self) -> int:
        """Bytes at the peak of the run."""
        return max(self.training, self.evaluating)

    def describe(self) -> str:
        """Return the parts as text."""
        names = ("weights", "gradients", "optimizer", "activations", "logits", "evaluation")
        parts = ", ".join(f"{name} {size_of(getattr(self, name))}" for name in names)
        return f"a rank needs at least {size_of(self.total)} ({parts})"


def footprint(settings: TrainSettings, decoder: DecoderConfig, batch_size: int, ranks: int, *, cuda: bool) -> Footprint:
    """Return the least memory of one rank of a run."""
    zero, bf16 = settings.zero, settings.precision == "bf16"
    element, parameters = 2 if bf16 else 4, decoder.parameter_count()
    lora = settings.lora.adapters()
    frozen = 0 if lora is None else parameters
    parameters = parameters if lora is None else lora.parameter_count(decoder)
    share = -(-parameters // ranks)
    weights = element * (-(-(parameters + frozen) // ranks) if zero.stage == 3 else parameters + frozen)
    accumulates = Split(batch_size, ranks, settings.micro_batch_size).accumulation > 1
    kept = bf16 and zero.stage < 2  # float32 sums that are allocated all the time
    gradients = 4 * (parameters if zero.stage == 0 or kept or (zero.stage == 1 and accumulates) else share)
    states = 12 * (share if zero.stage else parameters) if bf16 or zero.stage else 8 * parameters
    average = 4 * share if settings.averaging.decay else 0
    host = 4 * (parameters + frozen) if cuda else 0
    if cuda and zero.offload_optimizer == "cpu":
        host, states, gradients = max(host, states), 0, 0
    if zero.offload_optimizer == "nvme":
        states = 0
        if cuda:
            host, gradients = max(host, gradients), 0  # they wait for AdamW in host memory
    if cuda and zero.offload_param != "none":
        host, weights = max(host, weights if zero.offload_param == "cpu" else 0), 0
    activations = _activations(settings, decoder, element)
    logits = _logits(settings, decoder, element)
    head, block = (decoder.vocab_size * decoder.width, one_block(decoder)) if zero.stage == 3 else (0, 0)
    step = element * head + activations + logits
    worst = step + gradients if accumulates or kept else max(step, gradients)
    evaluation = element * block + heldout_batch(settings, decoder)
    training = weights + states + average + worst
    evaluating = weights + states + average + evaluation + (gradients if kept else 0)
    if not cuda:
        training = max(training, 4 * (parameters + frozen))  # built in float32, whatever the precision
    return Footprint(weights, gradients, states + average, activations, logits, evaluation, training, evaluating, host)


def one_block(decoder: DecoderConfig) -> int:
    """Return the parameters of embedding, head, final norm and one block."""
    counts = decoder.parameters()
    blocks = counts.attention + counts.ffn + 2 * decoder.layers * decoder.width
    return counts.total - blocks + blocks // decoder.layers


def heldout_batch(settings: TrainSettings, decoder: DecoderConfig) -> int:
    """Return the least bytes of a held-out batch's forward pass."""
    element = 2 if settings.precision == "bf16" else 4
    samples = min(settings.heldout.batch_size, settings.heldout.max_samples or settings.heldout.batch_size)
    tokens = samples * decoder.max_seq_len
    return element * tokens * (decoder.width + 3 * decoder.ffn)


def _activations(settings: TrainSettings, decoder: DecoderConfig, element: int) -> int:
    """Return the bytes that a micro-batch's forward pass keeps for the backward pass."""
    width, queries, keys = decoder.width, decoder.heads * decoder.head_size, decoder.kv_heads * decoder.head_size
    whole = 4 * width + 2 * queries + 2 * keys + 3 * decoder.ffn
    attention = width + 2 * queries + 2 * keys
    mode = settings.execution.checkpointing
    recomputed = 0
    if mode == "full":
        recomputed = decoder.layers
    elif mode == "every":
        recomputed = -(-decoder.layers // settings.execution.checkpoint_every)
    kept = attention if mode == "selective" or settings.execution.compile else whole  # a compiler may recompute
    elements = recomputed * width + (decoder.layers - recomputed) * kept
    if mode in ("full", "selective"):  # the block in its backward pass is whole again
        elements += whole - (width if mode == "full" else attention)
    return element * settings.micro_batch_size * decoder.max_seq_len * (elements + width)


def _logits(settings: TrainSettings, decoder: DecoderConfig, element: int) -> int:
    """Return the bytes of the loss: see models/losses/cross_entropy.py."""
    from models.losses.cross_entropy import CHUNK_LOGITS

    tokens, vocabulary = settings.micro_batch_size * decoder.max_seq_len, decoder.vocab_size
    chunk = min(tokens, max(1, CHUNK_LOGITS * 4 // element // vocabulary))
    head = vocabulary * decoder.width * (element if chunk == tokens else 4)
    return chunk * vocabulary * element + head + tokens * decoder.width * element


def lacking(need: Footprint, available: AvailableMemory, local_ranks: int) -> str | None:
    """Return which memory is too small for a run, as text; None if the run may fit."""
    on_host = need.host if available.device is not None else need.total
    if available.device is not None and need.total > available.device:
        return f"its GPU has {size_of(available.device)}"
    if available.process is not None and on_host > available.process:
        limit = size_of(available.process)
        return f"a process is limited to {limit} of host memory (ulimit -v, -d) and needs {size_of(on_host)}"
    if available.host is not None and local_ranks * on_host > available.host:
        total = f"this machine, or its control group, has {size_of(available.host)}"
        return f"{total} of host memory for {local_ranks} ranks that need {size_of(on_host)} each"
    return None


def check_fits(
    settings: TrainSettings,
    decoder: DecoderConfig,
    batch_size: int,
    ranks: int,
    local_ranks: int,
    available: AvailableMemory,
) -> str | None:
    """Raise ValueError with the estimate by part when a run cannot fit, naming the closest settings that may.

    Returns a warning when it does not fit into the memory free now: that may change, so the run is not rejected.
    """
    cuda = available.device is not None
    need = footprint(settings, decoder, batch_size, ranks, cuda=cuda)
    lack = lacking(need, available, local_ranks)
    if lack is None:
        of_all = need.total * (1 if cuda else local_ranks)
        if available.free is None or of_all <= available.free:
            return None
        return f"{need.describe()}, and {size_of(available.free)} are free now{'' if cuda else ' on this machine'}"
    for words, changed in [("", settings), *remedies(settings, batch_size, ranks, cuda=cuda)]:
        for more, smaller in evaluation_remedies(changed, decoder, batch_size, ranks, cuda=cuda):
            if lacking(footprint(smaller, decoder, batch_size, ranks, cuda=cuda), available, local_ranks) is None:
                closest = " ".join(filter(None, (words, more)))
                raise ValueError(f"the run cannot fit: {need.describe()}, but {lack}. Closest that may fit: {closest}")
    raise ValueError(f"the run cannot fit: {need.describe()}, but {lack}. {NOTHING_LEFT}")


NOTHING_LEFT = "No setting needs less on these ranks: use more machines (zero.stage=3), or a smaller model"


def remedies(
    settings: TrainSettings, batch_size: int, ranks: int, *, cuda: bool
) -> Iterator[tuple[str, TrainSettings]]:
    """Yield settings that need less and less memory, each with its overrides; the global batch stays the same.

    First smaller micro-batches, then, with one sample each, recomputation, ZeRO stages, and offloading on a GPU.
    """
    for size in reversed(divisors(batch_size // ranks)):
        if size < settings.micro_batch_size:
            settings = replace(settings, micro_batch_size=size)
            yield f"micro_batch_size={size}", settings
    words = [f"micro_batch_size={settings.micro_batch_size}"]
    modes = ("none", "every", "selective", "full")
    for mode in modes[modes.index(settings.execution.checkpointing) + 1 :]:
        if mode != "every":
            settings = replace(settings, execution=replace(settings.execution, checkpointing=mode))
            yield " ".join([*words, f"execution.checkpointing={mode}"]), settings
    words.append(f"execution.checkpointing={settings.execution.checkpointing}")
    for change in state_remedies(settings, ranks, cuda=cuda):
        yield " ".join([*words, change[0]]), change[1]


def evaluation_remedies(
    settings: TrainSettings, decoder: DecoderConfig, batch_size: int, ranks: int, *, cuda: bool
) -> Iterator[tuple[str, TrainSettings]]:
    """Yield the settings, then smaller held-out batches for as long as an evaluation needs more than a step."""
    yield "", settings
    size = settings.heldout.batch_size
    need = footprint(settings, decoder, batch_size, ranks, cuda=cuda)
    while size > 1 and need.evaluating > need.training:
        size //= 2
        settings = replace(settings, heldout=replace(settings.heldout, batch_size=size))
        yield f"heldout.batch_size={size}", settings
        need = footprint(settings, decoder, batch_size, ranks, cuda=cuda)


def state_remedies(settings: TrainSettings, ranks: int, *, cuda: bool) -> Iterator[tuple[str, TrainSettings]]:
    """Yield settings whose weights, gradients and optimizer state take less and less of a rank's memory."""
    zero = settings.zero
    for stage in range(zero.stage + 1, 4 if ranks > 1 else 0):
        zero = replace(zero, stage=stage)
        yield f"zero.stage={stage}", replace(settings, zero=zero)
    if not cuda:
        return
    if zero.offload_optimizer == "none":
        zero = replace(zero, stage=max(1, zero.stage), offload_optimizer="cpu")
        yield f"zero.stage={zero.stage} zero.offload_optimizer=cpu", replace(settings, zero=zero)
    if zero.offload_param == "none":
        zero = replace(zero, stage=3, offload_param="cpu")
        yield "zero.stage=3 zero.offload_optimizer=cpu zero.offload_param=cpu", replace(settings, zero=zero)


def advice(
    settings: TrainSettings,
    decoder: DecoderConfig,
    batch_size: int,
    ranks: int,
    available: AvailableMemory,
    *,
    states: bool,
) -> str:
    """Return the least memory of a rank that ran out of memory, and the closest setting that needs less.

    `states`: it happened before the first step, so a smaller micro-batch does not help.
    """
    cuda = available.device is not None
    there = f"; its GPU has {size_of(available.device)}" if available.device is not None else ""
    if available.free is not None:
        there += f"{',' if there else ';'} {size_of(available.free)} are free now"
    less = state_remedies(settings, ranks, cuda=cuda) if states else remedies(settings, batch_size, ranks, cuda=cuda)
    words = next((words for words, _ in less), None)
    need = footprint(settings, decoder, batch_size, ranks, cuda=cuda).describe()
    remedy = NOTHING_LEFT if words is None else f"Run again with {words} (same global batch)"
    return f"{need[0].upper()}{need[1:]}{there}. {remedy}; the run resumes from its newest checkpoint"


def size_of(size: int) -> str:
    """Return a number of bytes as text."""
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.2f} MB"
