"""`pdpc score`: open the job, load the reference models, score chunks."""
