"""Names of runs that nobody has named: how they are written, and by what they are known again."""

import re

NETWORKS = ("agi-net", "resunet", "deform-resunet", "arc-resunet", "restormer", "tsf")
"""The generators, by the names in ``synth3d.models``, which are not loaded to read a name."""

_HASH = "[0-9a-f]{8}"
_MADE = "(?:t1n|t1c|t2w|t2f|pd)(?:-(?:t1n|t1c|t2w|t2f|pd))*"
_TRAINED = re.compile(rf"(?:restored-)?(?:any|{_MADE})-((?:{'|'.join(NETWORKS)})-.+)-{_HASH}")
_COUPLED = re.compile(rf"coupled-{_MADE}(?:-\d+x\d+x\d+(?:-[a-z]+)?)?-{_HASH}")
_FOLD = re.compile(rf"fold\d+-{_HASH}")


def trained_name(made: str, network: str, cohort: str, digest: str) -> str:
    """``t2f-agi-net-<cohort>-<hash>``, of ``synth3d train``; ``made`` may be ``any``."""
    return f"{made}-{network}-{cohort}-{digest[:8]}"


def coupled_name(made: str, digest: str) -> str:
    """``coupled-t2f-<hash>``, of ``seg_eval run --coupled``."""
    return f"coupled-{made}-{digest[:8]}"


def fold_name(number: int, digest: str) -> str:
    """``fold1-<hash>``, of ``seg_eval run --cross-validate``."""
    return f"fold{number}-{digest[:8]}"


def is_coined(name: str) -> bool:
    """Whether the program has given this name; others that end in a date or a hash are a user's."""
    return any(known.fullmatch(name) for known in (_TRAINED, _COUPLED, _FOLD))


def without_hash(name: str) -> str:
    """``agi-net-<cohort>`` of a name of ``synth3d train``; any other as it is."""
    match = _TRAINED.fullmatch(name)
    return match[1] if match else name
