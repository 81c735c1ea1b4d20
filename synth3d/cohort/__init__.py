"""Cases on disk: which sequence is where, who is the patient, how the cohort is split."""

from synth3d.cohort.audit_report import AuditRequest, run_audit
from synth3d.cohort.cases import Case, require
from synth3d.cohort.content import Finding, findings
from synth3d.cohort.evidence import (
    REMEDY,
    Reading,
    dataset_of,
    read_classes,
    read_segmentation,
    scheme_of_name,
)
from synth3d.cohort.gaps import FEWEST, never_together, seen_together
from synth3d.cohort.label_names import LabelCodes, dataset_scheme, painted_codes
from synth3d.cohort.labels import (
    CLASSES,
    REGIONS,
    SCHEMES,
    TISSUES,
    LabelScheme,
    Tissue,
    nnunet_integers,
    nnunet_regions,
    parse_scheme,
    recode,
)
from synth3d.cohort.layouts import TOKENS, claims
from synth3d.cohort.nnunet import nnunet_dataset
from synth3d.cohort.patients import doubtful_patients, patient_of, untold_patients
from synth3d.cohort.readings import (
    contradictions,
    lacks_tissues,
    listed,
    notes_of,
    portable_codes,
    readings_of,
)
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
    "CLASSES",
    "Case",
    "FEWEST",
    "Finding",
    "LabelCodes",
    "LabelScheme",
    "MODALITIES",
    "Modality",
    "REGIONS",
    "REMEDY",
    "Reading",
    "SCHEMES",
    "Splits",
    "TABLE_ENDINGS",
    "TISSUES",
    "TOKENS",
    "Tissue",
    "claims",
    "cohort_of",
    "contradictions",
    "dataset_of",
    "dataset_scheme",
    "doubtful_patients",
    "ending_of",
    "find_cases",
    "findings",
    "given_cohort",
    "is_table",
    "lacks_tissues",
    "listed",
    "make_splits",
    "never_together",
    "nnunet_dataset",
    "nnunet_integers",
    "nnunet_regions",
    "notes_of",
    "painted_codes",
    "parse_modality",
    "parse_scheme",
    "parse_splits",
    "patient_of",
    "portable_codes",
    "read_classes",
    "read_segmentation",
    "read_splits",
    "readings_of",
    "recode",
    "refuse_twins",
    "require",
    "run_audit",
    "scheme_of_name",
    "seen_together",
    "shared_patients",
    "split_problems",
    "stem_of",
    "survey_cohort",
    "untold_patients",
    "write_splits",
]
