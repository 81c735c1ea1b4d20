"""``python -m scripts.coverage``: whether intervals and decisions hold, simulated."""
