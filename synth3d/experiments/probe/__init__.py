"""Does a network that rolls its kernels see that one source is out of place, and by how much?"""

from synth3d.experiments.probe.report import TITLE
from synth3d.experiments.probe.run import PROBE, ProbeRequest, probe_shift

__all__ = ["PROBE", "TITLE", "ProbeRequest", "probe_shift"]
