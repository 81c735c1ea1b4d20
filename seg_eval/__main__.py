"""``python -m seg_eval`` is the command ``seg_eval``."""

from seg_eval.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
