"""Where MGS helps, by how much, against tuned competitors: ``python -m benchmarks.evidence``."""
