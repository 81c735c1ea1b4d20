"""What the names of files and folders say: the sequence, the case, the patient."""

from synth3d.cohort.naming.guesses import guess
from synth3d.cohort.naming.layouts import (
    LABEL_TOKENS,
    TOKENS,
    Claim,
    claim_by_name,
    claim_of,
    claims,
    lost_link,
)
from synth3d.cohort.naming.nnunet import (
    nnunet_channels,
    nnunet_claims,
    nnunet_dataset,
    nnunet_listed,
)
from synth3d.cohort.naming.patients import (
    are_simulated,
    doubtful_patients,
    patient_of,
    untold_patients,
)
from synth3d.cohort.naming.vocabulary import (
    ALL_MODALITIES,
    GENERIC,
    MODALITIES,
    Modality,
    Role,
    ending_of,
    is_serial,
    parse_modality,
    stem_of,
    words_of,
)

__all__ = [
    "ALL_MODALITIES",
    "Claim",
    "GENERIC",
    "LABEL_TOKENS",
    "MODALITIES",
    "Modality",
    "Role",
    "TOKENS",
    "are_simulated",
    "claim_by_name",
    "claim_of",
    "claims",
    "doubtful_patients",
    "ending_of",
    "guess",
    "is_serial",
    "lost_link",
    "nnunet_channels",
    "nnunet_claims",
    "nnunet_dataset",
    "nnunet_listed",
    "parse_modality",
    "patient_of",
    "stem_of",
    "untold_patients",
    "words_of",
]
