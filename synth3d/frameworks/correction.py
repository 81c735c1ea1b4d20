"""How labels are moved in a training: FGDL's correction of what is a little out of place."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from synth3d.data import Batch, Task, only
from synth3d.models import Registration, folded, roughness, warp

NEAR = 0.99
"""From this share of the cap on a displacement counts as one that the cap held back."""


class Correction(nn.Module):
    """A registration network that moves each target to where it would lie on the sources.

    A poor sequence lies as the target does, so the network is not shown it.

    Args:
        task: Whose targets are moved.
        patch: Sides of what it will see, ([z,] y, x).
        width: The registration network's first layer.
        cap: No component of a displacement exceeds so many voxels.
        spacing: Voxel edges ([z,] y, x) in which slopes are taken; none for cubes.
        keep_tumour: Whether voxels of the label's tumour stay where they are.
    """

    def __init__(
        self,
        task: Task,
        patch: Sequence[int],
        width: int,
        cap: float,
        spacing: Sequence[float],
        keep_tumour: bool,
    ) -> None:
        super().__init__()
        self.guides, self.cap, self.keep_tumour = len(task.guides), cap, keep_tumour
        self.spacing = tuple(spacing) or (1.0,) * task.dim
        self.registration = Registration(1 + self.guides, task.dim, patch, width, cap)

    def forward(self, batch: Batch) -> tuple[Batch, Tensor]:
        """``batch`` with its wanted targets moved, and by how much: (B · T, d, \\*S) voxels."""
        truth = only(batch.targets, batch.wanted)
        each, count = truth.flatten(0, 1)[:, None], truth.shape[1]
        moved = self._displacements(batch.sources, truth)
        if self.keep_tumour:
            tumour = (batch.label > 0).repeat_interleave(count, dim=0)
            moved = moved.masked_fill(tumour, 0)
        return replace(batch, targets=warp(each, moved).view_as(truth)), moved

    def _displacements(self, sources: Tensor, targets: Tensor) -> Tensor:
        """(B · T, d, \\*S) voxels."""
        seen = sources[:, : self.guides].repeat_interleave(targets.shape[1], dim=0)
        return self.registration(torch.cat([targets.flatten(0, 1)[:, None], seen], dim=1))

    @torch.no_grad()
    def held_back(self, sources: Tensor, targets: Tensor) -> Tensor:
        """(B, T, \\*S) bool: where a displacement is as long as it may be."""
        return self._far(self._displacements(sources, targets)).view_as(targets)

    def _far(self, moved: Tensor) -> Tensor:
        return moved.detach().abs().amax(1) >= NEAR * self.cap

    def told(self, moved: Tensor) -> dict[str, Tensor]:
        """Of displacements (B · T, d, \\*S): ``smoothness``, and shares of voxels, (B · T,) each.

        ``folded`` is at how many space is turned inside out, ``capped`` at how many a displacement
        is as long as it may be; neither has a gradient.
        """
        far = self._far(moved)
        return {
            "smoothness": roughness(moved, self.spacing),
            "folded": folded(moved),
            "capped": far.flatten(1).float().mean(1),
        }


def remark_on(capped: Sequence[float], cap: float) -> list[str]:
    """A sentence about a training whose log has these shares of ``capped``, if there is need."""
    if not any(capped):
        return []
    return [
        f"labels were moved as far as train.fgdl.cap lets them, {cap:g} voxels, at up to "
        f"{max(capped):.2%} of their voxels: some pairs may lie farther apart than that; register "
        "the cases anew, or raise the cap"
    ]
