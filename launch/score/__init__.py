"""What every process of `pdpc score` does: open the job, load the reference models, score a chunk."""
