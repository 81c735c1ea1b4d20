"""What tests of networks share: a fixed seed, and what every routing of a network decides."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from synth3d.models.agi_net.routing import Routing

Routes = list[tuple[torch.Tensor, torch.Tensor]]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def routes() -> Callable[[nn.Module, torch.Tensor], Routes]:
    """(offsets, scale) of every routing during one pass of a network."""

    def watch(net: nn.Module, x: torch.Tensor) -> Routes:
        seen: Routes = []
        for module in net.modules():
            if isinstance(module, Routing):
                module.register_forward_hook(lambda m, i, o: seen.append(o))
        net(x)
        return seen

    return watch
