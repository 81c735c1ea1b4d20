"""torch.compile, vmap and jacobians through the roll and the modules built on it."""

import pytest
import torch

from cuda_ops import roll_kernel
from cuda_ops.op import roll_kernel_backward_op, roll_kernel_op
from synth3d.models.agi_net.network import CagrConv

LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
BACKENDS = ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]


def block(dim: int) -> CagrConv:
    """A CAGR block whose offsets are not at rest."""
    torch.manual_seed(0)
    made = CagrConv(8, 4, dim)
    assert made.routing is not None
    torch.nn.init.normal_(made.routing.offsets.weight, std=0.5)
    return made


def output_and_gradients(function, module, x):
    module.zero_grad()
    y = function(x)
    y.square().mean().backward()
    return [y, *[p.grad.clone() for p in module.parameters()]]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dim", [2, 3])
def test_a_cagr_block_compiles_to_one_graph_that_serves_every_batch(dim, backend):
    module = block(dim)
    torch.compiler.reset()
    compiled = torch.compile(module, fullgraph=True, backend=backend)
    for batch in (2, 3, 5):  # the second size makes the batch symbolic, the third must fit it
        x = torch.randn(batch, 8, *[8] * dim)
        x = x.to(memory_format=LAST[dim]) if batch == 3 else x
        pairs = zip(
            output_and_gradients(compiled, module, x),
            output_and_gradients(module, module, x),
            strict=True,
        )
        assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in pairs)


def leaves(dim: int, *extra: int):
    g = torch.Generator().manual_seed(dim)
    weight = torch.randn(*extra, 4, 4, *[3] * dim, generator=g, dtype=torch.float64)
    offsets = torch.randn(*extra, 2, 2, dim, generator=g, dtype=torch.float64)
    scale, gates = (torch.rand(*extra, 2, n, generator=g, dtype=torch.float64) for n in (2, 4))
    return weight, offsets, scale, gates


def operator(weight, offsets, scale, gates=None):
    return roll_kernel_op(weight, offsets, scale, torch.float64, gates)


@pytest.mark.parametrize("function", [roll_kernel, operator])
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize(
    "in_dims",
    [(0, 0, 0), (None, 0, 0), (0, None, 0), (None, 1, None), (0, 0, 0, 0), (0, 0, 0, None),
     (None, None, None, 0)],
)  # fmt: skip
def test_vmap_is_a_loop(function, dim, in_dims):
    many, one = (leaves(dim, *extra)[: len(in_dims)] for extra in ((3,), ()))
    inputs = [m if d is not None else o for m, o, d in zip(many, one, in_dims, strict=True)]
    inputs = [x.movedim(0, d) if d else x for x, d in zip(inputs, in_dims, strict=True)]
    result = torch.func.vmap(function, in_dims)(*inputs)
    for index in range(3):
        row = [x if d is None else x.select(d, index) for x, d in zip(inputs, in_dims, strict=True)]
        assert torch.allclose(result[index], function(*row), atol=1e-12)


@pytest.mark.parametrize("count", [3, 4])
def test_vmap_of_the_backward_is_a_loop(count):
    many = leaves(2, 3)[:count]
    grads = torch.randn(3, 2, 4, 4, 3, 3, dtype=torch.float64)
    results = torch.func.vmap(roll_kernel_backward_op)(grads, *many)
    for index in range(3):
        expected = roll_kernel_backward_op(grads[index], *[x[index] for x in many])
        pairs = zip(results, expected, strict=True)
        assert all(torch.equal(got[index], want) for got, want in pairs)


def test_gradients_of_each_sample_come_from_one_call():
    """What per-sample clipping and influence functions do: vmap over grad."""
    weight, *rows = leaves(2)

    def loss(weight, *row):
        return roll_kernel(weight, *(one[None] for one in row)).square().sum()

    gradient = torch.func.grad(loss, (0, 1, 2, 3))
    each = torch.func.vmap(gradient, (None, 0, 0, 0))(weight, *rows)
    for index in range(2):
        alone = gradient(weight, *(one[index] for one in rows))
        pairs = zip(each, alone, strict=True)
        assert all(torch.allclose(many[index], one, atol=1e-12) for many, one in pairs)
