"""``python -m synth3d.experiments.bench``: what AGI-Net costs beside the plain network.

Every figure is a ratio measured in the same rounds of one process, see :mod:`cuda_ops.bench`, of
two networks or, for steps of TSF-Seq2Seq and for cohorts, of the whole and its convolutions. Torch
alone. Bars are for the networks as the recipes have them, with the routing at half resolution.
"""

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuda_ops.bench import (
    Result,
    Row,
    Setting,
    ask_a_process,
    climb,
    compare,
    device_events,
    give_back_memory,
    serve,
    summary,
    take,
)
from synth3d.experiments.bench.coupling import coupling_rows
from synth3d.experiments.bench.floors import floor_rows
from synth3d.experiments.bench.ranks import ranks_row
from synth3d.experiments.bench.routing import routing_rows
from synth3d.experiments.bench.throughput import throughput_row
from synth3d.experiments.bench.volumes import volume_rows
from synth3d.models import GENERATORS, options_of

DESCRIPTION = """Measure training steps, forward passes and memory of AGI-Net against the plain
ResUNet, and the grouped convolutions of its routing: seconds of CPU time of the process with one
thread, or CUDA events with cuDNN choosing its kernels by trial; medians of the ratios of
interleaved rounds. Steps of TSF-Seq2Seq against their convolutions, and cohorts of native cases:
wall seconds, for which the machine must be idle. Exit code: 0; 1 if --check is given and a bar was
missed or a row failed; 2 if an argument cannot be used; 130 if interrupted."""
EXAMPLES = """examples:
  python -m synth3d.experiments.bench                   the whole table (half an hour)
  python -m synth3d.experiments.bench --quick           about a minute
  python -m synth3d.experiments.bench --only train/cpu  rows by name; --list shows the names
  python -m synth3d.experiments.bench --json bench.json the table, and JSON in a file"""

MODULE = "synth3d.experiments.bench"
FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}
DTYPES = ("fp32", "bf16")
AGI = {"stages": 5, "checkpoint_routing": False}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("resunet", {}),
    "agi": ("agi-net", AGI),
    "agi-stride2": ("agi-net", AGI | {"routing_stride": 2}),
}
BARRED = "agi-stride2"
BARS = {  # of BARRED over plain, at the size of the recipe `cpu`
    ("train", "fp32"): 1.20,
    ("train", "bf16"): 1.30,
    ("infer", "fp32"): 1.20,
    ("infer", "bf16"): 1.30,
    ("memory", "fp32"): 1.25,
}
GPU_BAR = 1.30
"""Of BARRED over plain, a training step at the size of the recipe `gpu`."""


@dataclass(frozen=True)
class Case:
    """A size at which networks are compared: three sources, one target, cubic patches."""

    name: str
    widths: tuple[int, ...]
    groups: int
    side: int
    dim: int = 3
    batch: int = 2

    def __str__(self) -> str:
        widths = "-".join(map(str, self.widths))
        return f"{self.dim}-D {widths}, n={self.groups}, {self.side}^{self.dim}, B={self.batch}"

    def network(self, name: str) -> nn.Module:
        """The one of ``NETWORKS`` at this size, channels-last; its weights repeat."""
        torch.manual_seed(0)
        model, options = NETWORKS[name]
        size: dict[str, Any] = {"dim": self.dim, "widths": self.widths, "groups": self.groups}
        taken = {k: v for k, v in (size | options).items() if k in options_of(model)}
        network: nn.Module = GENERATORS[model](3, 1, **taken)
        return network.to(memory_format=FORMATS[self.dim])

    def image(self) -> Tensor:
        """(B, 3, \\*S), channels-last, always the same."""
        g = torch.Generator().manual_seed(1)
        image = torch.randn(self.batch, 3, *[self.side] * self.dim, generator=g)
        return image.contiguous(memory_format=FORMATS[self.dim])


RECIPE = Case("cpu", (16, 32, 64, 128), 4, 48)
GPU = Case("gpu", (32, 64, 128, 256), 8, 96)
CASES = (
    RECIPE,
    Case("middle", (32, 64, 128, 256), 8, 48),
    Case("paper", (64, 128, 256, 512), 8, 32),
    Case("paper-2d", (64, 128, 256, 512), 8, 64, dim=2, batch=4),
)


def rows(device: torch.device) -> list[Row]:
    """All rows, in the order of the table.

    A training step (forward, L1, backward, Adam), a forward pass without gradients, what a training
    step needs at its peak, and the routing's convolutions; on a GPU how a training step's time
    there is spent as well. On a CPU the same step is taken by two processes, the peak is how far a
    process climbs in two steps without an optimiser, steps of TSF-Seq2Seq are held against their
    convolutions, a step that is coupled to a segmenter against one that is not, and whole cases
    are completed, in wall time.
    """
    cases = CASES if device.type == "cpu" else (*CASES, GPU)
    sizes = itertools.product(("train", "infer"), cases, DTYPES)
    timed = [_row(group, case, dtype, partial(_compare, case=case)) for group, case, dtype in sizes]
    if device.type == "cpu":
        two = ranks_row(RECIPE.widths, RECIPE.groups, RECIPE.side)
        routing, volumes = routing_rows("cpu"), volume_rows()
        steps = [*floor_rows(), *coupling_rows()]
        return [*timed, two, memory_row(), *routing, *steps, *volumes, throughput_row()]
    for group, measure in (("memory", _memory_on_cuda), ("norm", _share_of_norm)):
        timed += [_row(group, GPU, dtype, partial(measure, case=GPU)) for dtype in DTYPES]
    return [*timed, *routing_rows("cuda")]


def memory_row() -> Row:
    """The row of memory, at the size of the recipe."""
    return _row("memory", RECIPE, "fp32", partial(_memory, case=RECIPE))


def _row(group: str, case: Case, dtype: str, measure: Callable[..., list[Result]]) -> Row:
    name, quick = f"{group}/{case.name}/{dtype}", case in (RECIPE, GPU)
    return Row(name, str(case), measure, dtype, "channels_last", quick=quick)


def _bar(group: str, case: Case, name: str, dtype: str) -> float | None:
    if name != BARRED or case not in (RECIPE, GPU):
        return None
    if case is GPU:
        return GPU_BAR if group == "train" else None
    return BARS.get((group, dtype))


def _compare(row: Row, setting: Setting, case: Case) -> list[Result]:
    group = row.name.split("/")[0]
    calls = {name: _call(group, case, name, row.dtype, setting.device) for name in NETWORKS}
    taken = take(setting, calls)
    ratios = {name: compare(taken[name], taken["plain"]) for name in NETWORKS if name != "plain"}
    return [
        row.result(
            candidate=name,
            value=ratio.median,
            lowest=ratio.lowest,
            of_minima=ratio.of_minima,
            rounds=setting.rounds,
            bar=_bar(group, case, name, row.dtype),
            seconds=summary({key: taken[key] for key in ("plain", name)}),
        )
        for name, ratio in ratios.items()
    ]


def _call(
    group: str, case: Case, name: str, dtype: str, device: torch.device
) -> Callable[[], object]:
    """One training step, as a run's, or one forward pass of a network, ready to be repeated."""
    network, x = case.network(name).to(device), case.image().to(device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bf16")
    optimizer = torch.optim.Adam(network.parameters(), 1e-4, fused=True)
    target = torch.zeros_like(x[:, :1])

    def step() -> None:
        with autocast:
            y = network(x)
        F.l1_loss(y.float(), target).backward()
        optimizer.step()
        optimizer.zero_grad()

    def infer() -> Tensor:
        with torch.inference_mode(), autocast:
            return network(x)

    network.train(group == "train")
    return step if group == "train" else infer


def _memory(row: Row, setting: Setting, case: Case) -> list[Result]:
    task = {"case": case.name, "threads": setting.threads}
    return _peaks(row, case, {n: ask_a_process(__name__, task | {"network": n}) for n in NETWORKS})


def _memory_on_cuda(row: Row, setting: Setting, case: Case) -> list[Result]:
    """What torch's allocator had handed out at the peak of a training step, the network included.

    The kernels of cuDNN may have asked for more when they were tried out in the step before.
    """
    peaks = {}
    for name in NETWORKS:
        step = _call("train", case, name, row.dtype, setting.device)
        step()
        torch.cuda.reset_peak_memory_stats(setting.device)
        step()
        torch.cuda.synchronize(setting.device)
        peaks[name] = torch.cuda.max_memory_allocated(setting.device)
        del step
        torch.cuda.empty_cache()
    return _peaks(row, case, peaks)


def _peaks(row: Row, case: Case, peaks: dict[str, int]) -> list[Result]:
    return [
        row.result(
            candidate=name,
            value=peaks[name] / peaks["plain"],
            rounds=1,
            bar=_bar("memory", case, name, row.dtype),
            note=f"{peaks[name] / 2**20:.0f} : {peaks['plain'] / 2**20:.0f} MiB",
        )
        for name in NETWORKS
        if name != "plain"
    ]


def _share_of_norm(row: Row, setting: Setting, case: Case) -> list[Result]:
    """The share of layer norm in what the device does in a training step."""
    found = []
    for name in NETWORKS:
        times = [
            (kernel, end - begin)
            for kernel, begin, end in device_events(
                _call("train", case, name, row.dtype, setting.device)
            )
        ]
        whole = sum(time for _, time in times)
        norm = sum(time for kernel, time in times if "layer_norm" in kernel.lower())
        note = f"{norm / 1e3:.3g} of {whole / 1e3:.3g} ms in {len(times)} launches"
        value = 100 * norm / whole
        found.append(row.result(candidate=name, value=value, unit="%", rounds=1, note=note))
    return found


def child(task: str) -> int:
    """Bytes of resident memory that two training steps add, the optimiser's not included.

    ``task`` is JSON with case, network (their names) and threads.
    """
    what = json.loads(task)
    give_back_memory()
    torch.set_num_threads(what["threads"])
    case = next(case for case in CASES if case.name == what["case"])
    network, x = case.network(what["network"]), case.image()
    small = Case("small", case.widths, case.groups, 16, case.dim).image()
    network(small).sum().backward()  # libraries load and settle

    def two_steps() -> None:
        for _ in range(2):
            network(x).abs().mean().backward()
            network.zero_grad()

    return climb(two_steps)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    return serve(arguments, f"python -m {MODULE}", DESCRIPTION, EXAMPLES, rows)
