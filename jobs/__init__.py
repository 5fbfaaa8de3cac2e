"""What is submitted to a Ray cluster: ``python -m jobs.submit search -- nusc --trials 64``."""
