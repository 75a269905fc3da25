"""A step on the terminal: its samples with position, bucket, source, scores, documents and the start of their text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from curriculum.audit.step_samples import StepSamples, TextDecoder, beginning, origins, samples_of_step
from curriculum.tokens.tokens import Tokens
from curriculum.work.console import cell, say
from launch.inspect.subject import Subject

if TYPE_CHECKING:
    from launch.inspect.settings import InspectSettings
    from train.report.records import Run

MOST_DOCUMENTS = 6


def show_step(subject: Subject, settings: InspectSettings, console: Any) -> bool:
    """Print a step; return whether the run, where there is one, consumed just these samples."""
    assert settings.step is not None
    step = samples_of_step(subject.order, settings.step, subject.columns)
    for line in _head(subject, step):
        say(console, line)
    same = True
    if subject.run is not None:
        same, said = compared(subject.run, step)
        console.print(f"consumed     {said}", markup=False, style="" if same else "bold red", soft_wrap=True)
        for line in _recorded(subject.run, step.number):
            say(console, line)
    losses = None
    if settings.by_loss:
        from launch.inspect.losses import losses_of

        losses, model = losses_of(subject, step, settings.loss_model)
        mean = float(np.average(losses, weights=step.length_B))
        console.print(f"loss         {mean:.4f} nats a token on the whole, under {model}", markup=False, soft_wrap=True)
    shown = np.arange(len(step)) if losses is None else np.argsort(-losses, kind="stable")
    console.print()
    decode = _decoder(subject.tokens)
    for index in shown[: settings.samples]:
        for line in _sample(subject, step, int(index), losses, decode, console.width):
            console.print(cell(line), no_wrap=True, crop=True, overflow="ellipsis")
    if settings.samples < len(step):
        rest = "the others cost less" if losses is not None else "in the order of their positions"
        console.print(f"{settings.samples} of {len(step):,} samples, {rest}; samples=K shows more", markup=False)
    return same


def compared(run: Run, step: StepSamples) -> tuple[bool, str]:
    """Compare what a run consumed at a step with the order's; return whether they are the same, and what to say."""
    from train.records.consumed import consumed_at

    found = consumed_at(run.folder, step.number - 1)
    if found is None:
        return True, "the run has not recorded this step (yet)"
    ours, theirs = np.sort(step.ids_B), np.sort(found)
    if len(ours) == len(theirs) and (ours == theirs).all():
        return True, f"by the run just so: {len(found):,} samples"
    extra, lacking = np.setdiff1d(theirs, ours), np.setdiff1d(ours, theirs)
    return False, (
        f"DIFFERENT by the run: {len(found):,} samples for {len(step):,}; {len(extra)} not of the order"
        f"{_examples(extra)}, {len(lacking)} of the order not consumed{_examples(lacking)}"
    )


def _examples(ids: NDArray[np.int64]) -> str:
    return f" (as {', '.join(str(sample) for sample in ids[:3])})" if len(ids) else ""


def _head(subject: Subject, step: StepSamples) -> Iterator[str]:
    order = subject.order
    end = step.first + len(step)
    yield (
        f"STEP {step.number:,} of {order.steps:,} of {order.folder}: positions {step.first:,} to {end - 1:,}, stage "
        f"{step.stage} of {len(order.stage_ends)}, {100 * end / len(order):.1f}% of the samples read after it"
    )
    buckets = [
        f"{bucket.name} {int(realised)} ({planned:.2f} planned)"
        for bucket, planned, realised in zip(order.buckets, step.planned_K, step.realised_K, strict=True)
        if realised or planned
    ]
    yield f"buckets      {', '.join(buckets)}"
    if step.source_B:
        names, counts = np.unique(step.source_B, return_counts=True)
        largest = np.argsort(-counts, kind="stable")
        yield f"sources      {', '.join(f'{names[index]} {counts[index]}' for index in largest)}"
    means = [f"{name} {np.nanmean(value):.4f}" for name, value in step.scores.items() if np.isfinite(value).any()]
    if means:
        yield f"mean scores  {', '.join(means)}"


def _recorded(run: Run, number: int) -> Iterator[str]:
    """Yield what the run's metrics say of the stretch of steps that holds this one, and of the stretch before."""
    after = [record for record in run.train if record["step"] >= number]
    before = [record for record in run.train if record["step"] < number]
    if not after:
        return
    first = (before[-1]["step"] if before else 0) + 1
    last = after[0]["step"]
    values = [f"{key} {after[0][key]:.4f}" for key in ("train/loss", "optim/grad_norm") if key in after[0]]
    stretch = f"step {last:,}" if first == last else f"steps {first:,} to {last:,}"
    past = f" (train/loss {before[-1]['train/loss']:.4f} before)" if before and "train/loss" in before[-1] else ""
    yield f"recorded     {', '.join(values)} over {stretch}{past}"


def _sample(
    subject: Subject,
    step: StepSamples,
    index: int,
    losses: NDArray[np.float32] | None,
    decode: TextDecoder | None,
    letters: int,
) -> Iterator[str]:
    """Yield the lines of one sample: what is known of it, and how its text begins."""
    order, sample = subject.order, int(step.ids_B[index])
    parts = [f"position {step.first + index:,}", f"sample {sample}"]
    if losses is not None:
        parts.append(f"loss {losses[index]:.4f}")
    parts.append(f"bucket {order.buckets[int(step.bucket_B[index])].name}")
    if step.source_B:
        parts.append(f"source {step.source_B[index]}")
    if step.length_B is not None:
        parts.append(f"{step.length_B[index]} tokens")
    parts += [f"{name} {value[index]:.4f}" for name, value in step.scores.items()]
    tokens = subject.tokens
    if tokens is not None:
        whole = origins(tokens, sample)
        told = [f"{origin} ({count} tokens)" for origin, count in whole[:MOST_DOCUMENTS]]
        more = f" and {len(whole) - MOST_DOCUMENTS} more" if len(whole) > MOST_DOCUMENTS else ""
        parts.append(f"document{'' if len(whole) == 1 else 's'} {', '.join(told)}{more}")
    yield "  ".join(parts)
    if tokens is not None and decode is not None:
        yield f"    {beginning(tokens, sample, decode, letters)}"


def _decoder(tokens: Tokens | None) -> TextDecoder | None:
    """Return the tokenizer's way back to text."""
    if tokens is None:
        return None
    from curriculum.tokens.tokenizer import TextTokenizer

    tokens.check_tokenizer()
    return TextTokenizer.open(tokens.tokenizer_folder).decode
