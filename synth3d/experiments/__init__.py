"""The paper's tables rerun, and what networks cost."""

from synth3d.experiments.describe import DescribeRequest, describe_model
from synth3d.experiments.run import AblateRequest, ablate

__all__ = ["AblateRequest", "DescribeRequest", "ablate", "describe_model"]
