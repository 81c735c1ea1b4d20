"""The paper's tables rerun, and what networks cost.

What is handed on is imported when it is used: the benchmarks beside it need torch alone.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synth3d.experiments.describe import DescribeRequest, describe_model
    from synth3d.experiments.run import AblateRequest, ablate

__all__ = ["AblateRequest", "DescribeRequest", "ablate", "describe_model"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    file = "run" if name in ("AblateRequest", "ablate") else "describe"
    return getattr(importlib.import_module(f"{__name__}.{file}"), name)
