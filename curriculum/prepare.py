"""`pdpc prepare`: text to TOKENS.

text -> tokenizer (found or trained on the training slice) -> chunks: hold out by document, encode -> TOKENS
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from curriculum.tokens.encode import one_thread
from curriculum.tokens.job import TextJob, TextWorker
from curriculum.tokens.settings import PrepareSettings
from curriculum.work.job import work_here


def run(settings: PrepareSettings, console: Console | None = None) -> Path:
    """Make TOKENS, or reuse them when they are whole and made of the same; return their folder.

    In this process alone (launch/executors has the others). Prints a table of documents, tokens and samples by source and
    slice. Raises ValueError for what the input or the settings have wrong, ArtifactError when something else stands at
    `output`.
    """
    job = TextJob(settings, console)
    if (folder := job.reused()) is not None:
        return folder
    with one_thread():
        work_here(job, lambda: TextWorker(job))
    return job.finish()
