"""Are the run's settings valid, by themselves and with its inputs?"""

from __future__ import annotations

from collections.abc import Iterator

from launch.cluster.slurm import Slurm
from launch.doctor.check import Finding, Subject, failure, ok, refused, warning


def composed(subject: Subject) -> Iterator[Finding]:
    """Report what composing the settings found."""
    if subject.problem:
        yield failure(f"{subject.problem}", "correct it; the other checks use the default settings")
        return
    if not subject.described:
        yield ok("no run was described: this machine is checked")
        return
    absent = sorted(subject.missing & {"data.tokens", "data.order"})
    if absent:
        yield warning(
            f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} not given: inputs, batch and memory are not "
            "checked",
            f"add {' '.join(f'{key}=FOLDER' for key in absent)}",
        )
    else:
        yield ok("the run's settings are valid")
    if isinstance(subject.cluster, Slurm):
        try:
            subject.cluster.check_grace(subject.settings.grace_s)
        except ValueError as error:
            yield refused(error, "grace_s")


def batch(subject: Subject) -> Iterator[Finding]:
    """Divide the batch of the order over the ranks of the cluster, in micro-batches."""
    from train.engine.config import deepspeed_config

    if subject.inputs is None:
        return
    size, settings = subject.inputs.order.batch_size, subject.settings
    try:
        made = deepspeed_config(settings, size, subject.ranks)
    except ValueError as error:
        yield refused(error)
        return
    accumulation = made["gradient_accumulation_steps"]
    yield ok(f"{size} samples = {subject.ranks} ranks x {accumulation} micro-batches of {settings.micro_batch_size}")


def resumes(subject: Subject) -> Iterator[Finding]:
    """Compare the settings with those of the run that the output folder holds."""
    from train.records.layout import RUN
    from train.resume.identity import check_acceptable
    from train.resume.runfolder import finished

    if subject.inputs is None or not subject.has("output", "arm"):
        return
    try:
        check_acceptable(subject.settings.accept_change)
        over = finished(subject.output, subject.settings, subject.inputs)
    except (ValueError, OSError) as error:
        yield refused(error)
        return
    if not (subject.output / RUN).is_file():
        yield ok("the run would start at its first step")
    else:
        yield ok("the run is finished: nothing would be trained" if over else "the run would resume")
