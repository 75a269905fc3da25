"""A step on the terminal: its samples with position, bucket, source, scores, documents and the start of the text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from curriculum.artifact.files import write_text
from curriculum.artifact.outputs import check_file, holds
from curriculum.audit.step_samples import (
    StepSamples,
    TextDecoder,
    beginning,
    origins,
    samples_of_step,
    whole_text,
)
from curriculum.tokens.tokens import Tokens
from curriculum.work.console import cell, say
from curriculum.work.printable import printable, printable_lines
from launch.inspect.settings import FULL, START, TEXT_FILE
from launch.inspect.subject import Subject

if TYPE_CHECKING:
    from launch.inspect.settings import InspectSettings
    from train.report.records import Run

MOST_DOCUMENTS = 6
MARK = "--- position "
"""With which each sample begins in a file of texts."""


def show_step(subject: Subject, settings: InspectSettings, console: Any) -> bool:
    """Print a step; return False if there is a run and it consumed other samples."""
    assert settings.step is not None
    if settings.text.endswith(TEXT_FILE):
        path = Path(settings.text)
        check_file("text", path, holds(path, MARK))
    step = samples_of_step(subject.order, settings.step, subject.columns)
    for line in _head(subject, step):
        say(console, line)
    same = True
    if subject.run is not None:
        same, text = compared(subject.run, step)
        console.print(f"consumed     {text}", markup=False, style="" if same else "bold red", soft_wrap=True)
        for line in _recorded(subject.run, step.number):
            say(console, line)
    losses = None
    if settings.by_loss:
        from launch.inspect.losses import losses_of

        losses, model = losses_of(subject, step, settings.loss_model)
        mean = float(np.average(losses, weights=step.length_B))
        console.print(f"loss         {mean:.4f} nats per token, under {model}", markup=False, soft_wrap=True)
    shown = np.arange(len(step)) if losses is None else np.argsort(-losses, kind="stable")
    console.print()
    decode = _decoder(subject.tokens)
    if settings.text != START and decode is None:
        raise ValueError(f"text={settings.text} needs the text: give tokens=FOLDER")
    parts: list[str] = []
    for index in shown[: settings.samples]:
        head = _sample(subject, step, int(index), losses)
        console.print(cell(head), no_wrap=settings.text == START, crop=settings.text == START, overflow="ellipsis")
        if subject.tokens is None or decode is None:
            continue
        sample = int(step.ids_B[index])
        if settings.text == START:
            line = f"    {beginning(subject.tokens, sample, decode, console.width)}"
            console.print(cell(line), no_wrap=True, crop=True, overflow="ellipsis")
            continue
        text = whole_text(subject.tokens, sample, decode)
        if settings.text == FULL:
            console.print(printable_lines(text), markup=False, emoji=False, soft_wrap=True)
            console.print()
        parts.append(f"--- {head}\n{text}\n")
    if settings.text.endswith(TEXT_FILE):
        write_text(Path(settings.text), "".join(parts))
        say(console, f"text of {len(parts)} samples: {settings.text}")
    if settings.samples < len(step):
        rest = "highest loss first" if losses is not None else "by position"
        console.print(f"{settings.samples} of {len(step):,} samples, {rest}; samples=K shows more", markup=False)
    return same


def compared(run: Run, step: StepSamples) -> tuple[bool, str]:
    """Compare the samples a run consumed at a step with the order; return whether they match, and a description."""
    from train.records.consumed import consumed_at

    found = consumed_at(run.folder, step.number - 1)
    if found is None:
        return True, "not recorded: the run has not reached this step"
    ours, theirs = np.sort(step.ids_B), np.sort(found)
    if len(ours) == len(theirs) and (ours == theirs).all():
        return True, f"by the run as planned: {len(found):,} samples"
    extra, lacking = np.setdiff1d(theirs, ours), np.setdiff1d(ours, theirs)
    return False, (
        f"DIFFERENT: the run consumed {len(found):,} samples, the order has {len(step):,}; {len(extra)} not in the "
        f"order{_examples(extra)}, {len(lacking)} in the order but not consumed{_examples(lacking)}"
    )


def _examples(ids: NDArray[np.int64]) -> str:
    return f" (such as {', '.join(str(sample) for sample in ids[:3])})" if len(ids) else ""


def _head(subject: Subject, step: StepSamples) -> Iterator[str]:
    order = subject.order
    end = step.first + len(step)
    yield (
        f"STEP {step.number:,} of {order.steps:,} of {order.folder}: positions {step.first:,} to {end - 1:,}, stage "
        f"{step.stage} of {len(order.stage_ends)}, {100 * end / len(order):.1f}% of the samples consumed after it"
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
    """Yield the run's metrics from the record that covers this step, with the loss of the record before."""
    after = [record for record in run.train if record["step"] >= number]
    before = [record for record in run.train if record["step"] < number]
    if not after:
        return
    first = (before[-1]["step"] if before else 0) + 1
    last = after[0]["step"]
    values = [f"{key} {after[0][key]:.4f}" for key in ("train/loss", "optim/grad_norm") if key in after[0]]
    covered = f"step {last:,}" if first == last else f"steps {first:,} to {last:,}"
    past = f" (train/loss {before[-1]['train/loss']:.4f} before)" if before and "train/loss" in before[-1] else ""
    yield f"recorded     {', '.join(values)} over {covered}{past}"


def _sample(
    subject: Subject,
    step: StepSamples,
    index: int,
    losses: NDArray[np.float32] | None,
) -> str:
    """Return the line about one sample: its known properties."""
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
        names = [f"{origin} ({count} tokens)" for origin, count in whole[:MOST_DOCUMENTS]]
        more = f" and {len(whole) - MOST_DOCUMENTS} more" if len(whole) > MOST_DOCUMENTS else ""
        parts.append(f"document{'' if len(whole) == 1 else 's'} {', '.join(names)}{more}")
    return printable("  ".join(parts))


def _decoder(tokens: Tokens | None) -> TextDecoder | None:
    """Return the tokenizer's decode function; None without TOKENS."""
    if tokens is None:
        return None
    from curriculum.tokens.tokenizer import TextTokenizer

    tokens.check_tokenizer()
    return TextTokenizer.open(tokens.tokenizer_folder).decode
