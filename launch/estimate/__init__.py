"""What a recipe takes before anything is queued: memory, speed, hours, checkpoints."""
