"""What in a cohort would break a run, and copies with headers that every program reads alike."""

from synth3d.cohort.audit.report import AuditRequest, run_audit

__all__ = ["AuditRequest", "run_audit"]
