"""``python -m synth3d.experiments.bench`` measures networks and what is around them."""

from synth3d.experiments.bench.networks import main

if __name__ == "__main__":
    raise SystemExit(main())
