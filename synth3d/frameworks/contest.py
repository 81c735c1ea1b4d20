"""Critics that compare: what is made beside what is real, picture by picture."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from cuda_ops import full_precision
from synth3d.losses import feature_matching, relativistic


class Verdict(NamedTuple):
    """On pictures, (N,) each: how much less real they look than others, how far features differ."""

    fooled: Tensor
    apart: Tensor


class Contest(nn.Module):
    """A critic and what it was last shown; each side is scored against the other's mean.

    A score map counts by its mean, several are summed, and every picture is judged by itself; so
    how a batch is shared changes nothing. For the same reason spectral norms move on once a step,
    not at each reading. Critics are asked in float32 always: where a patch is background nearly
    everywhere, instance normalisation overflows in half precision.

    Args:
        critic: With ``features`` of pictures (N, 1, \\*S) and ``scores`` of these, given a
            condition if it takes one: lists of (N, c, \\*s).
    """

    def __init__(self, critic: nn.Module) -> None:
        super().__init__()
        self.critic: Any = critic
        self._shown: dict[int, tuple[Tensor, ...]] = {}
        self._step = -1

    def judge(self, step: int, made: Tensor, real: Tensor, *condition: Tensor) -> Verdict:
        """Of pictures ``made`` (N, 1, \\*S) beside ``real`` ones, for whoever made them."""
        self._begin(step)
        features, scores = self._seen(made, real, *condition)
        fooled = [relativistic(one, other, 1.0) for one, other in zip(*scores, strict=True)]
        return Verdict(torch.stack(fooled).sum(0), feature_matching(*features))

    def _begin(self, step: int) -> None:
        """Let norms of kernels move on, the first time that it is asked at ``step``."""
        if step == self._step:
            return
        self._step = step
        self.critic.train()
        with torch.no_grad():
            for module in self.critic.modules():
                if is_parametrized(module, "weight"):
                    _ = module.weight

    def show(self, key: int, *pictures: Tensor) -> None:
        """Keep ``pictures`` (real, made, condition) for :meth:`tells`, without their history."""
        self._shown[key] = tuple(each.detach() for each in pictures)

    def tells(self, key: int) -> Tensor | None:
        """(N,): the critic's loss on what it was shown under ``key``, once; None if on nothing."""
        if key not in self._shown:
            return None
        _, scores = self._seen(*self._shown.pop(key))
        losses = [relativistic(r, m, 1.0) + relativistic(m, r, 0.0)
                  for r, m in zip(*scores, strict=True)]  # fmt: skip
        return 0.5 * torch.stack(losses).sum(0)

    def _seen(
        self, one: Tensor, other: Tensor, *condition: Tensor
    ) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
        """Features of both, and scores of both."""
        self.critic.eval()
        with full_precision(one.device.type):
            features = [self.critic.features(pictures.float()) for pictures in (one, other)]
            return features, [self.critic.scores(each, *condition) for each in features]
