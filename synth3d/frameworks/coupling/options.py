"""``train.coupling``: which terms a segmenter adds to a framework's own, and when."""

from dataclasses import dataclass

from synth3d.errors import InputError
from synth3d.settings import require

LOOKING = ("features", "label", "answer")
"""Terms by a segmenter."""
TERMS = (*LOOKING, "tumour", "boundary")


@dataclass(frozen=True)
class CouplingOptions:
    """``train.coupling``: weights of terms, 0 being off, and when they count.

    Attributes:
        segmenter: Folder that ``seg_eval export-segmenter`` left.
        segmenter_sha256: Of its weights; written by the training.
        features: Between the maps of its encoder on the synthetic image and on the real one, of
            unit length: their mean absolute difference, summed over stages.
        label: Cross-entropy + 1 − soft Dice of what it finds, to the label.
        answer: The same to what it finds on the real image; no label is needed.
        tumour: Mean absolute error in the tumour.
        boundary: Mean absolute error in voxels beside one of another class.
        every: Terms by the segmenter count at every n-th step, n times as much.
        start: The step at which all of them begin.
        balance: A weight of 1 is as much as the framework's L1, by the norm of the gradient that
            reaches the synthetic image; norms are means over the steps before.
    """

    segmenter: str = ""
    segmenter_sha256: str = ""
    features: float = 0.0
    label: float = 0.0
    answer: float = 0.0
    tumour: float = 0.0
    boundary: float = 0.0
    every: int = 1
    start: int = 0
    balance: bool = False

    def __post_init__(self) -> None:
        for name in TERMS:
            weight = getattr(self, name)
            require(0 <= weight < float("inf"), f"train.coupling.{name}", "finite and ≥ 0", weight)
        require(1 <= self.every <= 10**6, "train.coupling.every", "1 to 10^6", self.every)
        require(0 <= self.start <= 10**12, "train.coupling.start", "0 to 10^12", self.start)
        looks = any(getattr(self, name) > 0 for name in LOOKING)
        if looks and not self.segmenter:
            raise InputError(
                f"train.coupling has terms by a segmenter ({', '.join(LOOKING)}) and no segmenter; "
                "give train.coupling.segmenter, a folder of seg_eval export-segmenter"
            )
        if self.segmenter and not looks:
            raise InputError(
                f"train.coupling.segmenter has no effect without a weight; set one of "
                f"{', '.join(LOOKING)}, as in train.coupling.label=0.1"
            )

    @property
    def active(self) -> bool:
        """Whether any term counts."""
        return any(getattr(self, name) > 0 for name in TERMS)
