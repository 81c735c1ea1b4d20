"""Cases on disk: which sequence is where, who is the patient, how the cohort is split."""

from synth3d.cohort.audit_report import AuditRequest, run_audit
from synth3d.cohort.cases import (
    ALL_MODALITIES,
    MODALITIES,
    Case,
    Modality,
    find_cases,
    patient_of,
    require,
    survey_folder,
)
from synth3d.cohort.labels import LabelScheme, label_scheme
from synth3d.cohort.namings import TOKENS, claims, ending_of, nnunet_dataset, parse_modality
from synth3d.cohort.splits import (
    Splits,
    make_splits,
    parse_splits,
    read_splits,
    split_problems,
    write_splits,
)

__all__ = [
    "ALL_MODALITIES",
    "AuditRequest",
    "Case",
    "LabelScheme",
    "MODALITIES",
    "Modality",
    "Splits",
    "TOKENS",
    "claims",
    "ending_of",
    "find_cases",
    "label_scheme",
    "make_splits",
    "nnunet_dataset",
    "parse_modality",
    "parse_splits",
    "patient_of",
    "read_splits",
    "require",
    "run_audit",
    "split_problems",
    "survey_folder",
    "write_splits",
]
