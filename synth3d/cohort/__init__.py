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
from synth3d.cohort.content import Finding, findings
from synth3d.cohort.evidence import REMEDY, Reading, read_classes, read_segmentation, scheme_of_name
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
from synth3d.cohort.namings import claims, ending_of, nnunet_dataset, parse_modality
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
    split_problems,
    write_splits,
)

__all__ = [
    "ALL_MODALITIES",
    "AuditRequest",
    "CLASSES",
    "Case",
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
    "TISSUES",
    "Tissue",
    "claims",
    "contradictions",
    "dataset_scheme",
    "ending_of",
    "find_cases",
    "findings",
    "lacks_tissues",
    "listed",
    "make_splits",
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
    "require",
    "run_audit",
    "scheme_of_name",
    "split_problems",
    "survey_folder",
    "write_splits",
]
