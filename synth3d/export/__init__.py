"""A finished run as others want it: a Hugging Face folder, a MONAI bundle, a BraSyn container."""

from synth3d.export.answers import BundleNetwork, answer_brasyn
from synth3d.export.request import ExportRequest, export_run

__all__ = ["BundleNetwork", "ExportRequest", "answer_brasyn", "export_run"]
