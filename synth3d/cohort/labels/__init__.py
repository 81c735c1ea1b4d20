"""What the integers of a segmentation stand for, by themselves and in each case of a cohort."""

from synth3d.cohort.labels.evidence import (
    REMEDY,
    Reading,
    dataset_of,
    read_classes,
    read_segmentation,
    scheme_of_name,
)
from synth3d.cohort.labels.names import LabelCodes, dataset_scheme, painted_codes
from synth3d.cohort.labels.readings import (
    as_siblings,
    contradictions,
    lacks_tissues,
    listed,
    notes_of,
    portable_codes,
    readings_of,
)
from synth3d.cohort.labels.schemes import (
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

__all__ = [
    "CLASSES",
    "LabelCodes",
    "LabelScheme",
    "REGIONS",
    "REMEDY",
    "Reading",
    "SCHEMES",
    "TISSUES",
    "Tissue",
    "as_siblings",
    "contradictions",
    "dataset_of",
    "dataset_scheme",
    "lacks_tissues",
    "listed",
    "nnunet_integers",
    "nnunet_regions",
    "notes_of",
    "painted_codes",
    "parse_scheme",
    "portable_codes",
    "read_classes",
    "read_segmentation",
    "readings_of",
    "recode",
    "scheme_of_name",
]
