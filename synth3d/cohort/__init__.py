"""Cases on disk: which sequence is where, who is the patient, how the cohort is split."""

from synth3d.cohort.audit_report import AuditRequest, run_audit
from synth3d.cohort.cases import Case, require
from synth3d.cohort.labels import LabelScheme, label_scheme
from synth3d.cohort.layouts import claims
from synth3d.cohort.nnunet import nnunet_dataset
from synth3d.cohort.patients import doubtful_patients, patient_of
from synth3d.cohort.splits import (
    Splits,
    make_splits,
    parse_splits,
    read_splits,
    shared_patients,
    split_problems,
    write_splits,
)
from synth3d.cohort.survey import find_cases, survey_cohort
from synth3d.cohort.table import ENDINGS as TABLE_ENDINGS
from synth3d.cohort.table import cohort_of, given_cohort, is_table
from synth3d.cohort.twins import refuse_twins
from synth3d.cohort.vocabulary import (
    ALL_MODALITIES,
    MODALITIES,
    Modality,
    ending_of,
    parse_modality,
    stem_of,
)

__all__ = [
    "ALL_MODALITIES",
    "AuditRequest",
    "Case",
    "LabelScheme",
    "MODALITIES",
    "Modality",
    "Splits",
    "TABLE_ENDINGS",
    "claims",
    "cohort_of",
    "doubtful_patients",
    "ending_of",
    "find_cases",
    "given_cohort",
    "is_table",
    "label_scheme",
    "make_splits",
    "nnunet_dataset",
    "parse_modality",
    "parse_splits",
    "patient_of",
    "read_splits",
    "refuse_twins",
    "require",
    "run_audit",
    "shared_patients",
    "split_problems",
    "stem_of",
    "survey_cohort",
    "write_splits",
]
