"""One run: loop, engine, checkpoints, stages, evaluation, tracking."""
