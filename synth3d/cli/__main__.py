"""``python -m synth3d.cli`` is the command ``synth3d``."""

from synth3d.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
