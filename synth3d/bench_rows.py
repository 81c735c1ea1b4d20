"""What ``python -m synth3d.bench`` measures: whole networks against the plain one, with bars."""

import json
import sys
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from cuda_ops import cpu_library
from cuda_ops.bench_allocator import give_back_memory
from cuda_ops.bench_clock import Call, compare, summary
from cuda_ops.bench_memory import RESET, STATUS, ask_a_process, resident
from cuda_ops.bench_rows import Result, Row, Setting, SkipRow, take, timed
from synth3d.bench_complete import complete_rows
from synth3d.bench_networks import FORMATS, ROLL_ONLY, Case, training_step
from synth3d.bench_pages import page_rows
from synth3d.machine import has_bfloat16

TRAIN_BARS = {"agi": 1.30, "agi-stride2": 1.12, ROLL_ONLY: 1.05}
INFER_BARS = {"agi": 1.40, "agi-stride2": 1.10}
MEMORY_BARS = {"agi-recomputed": 1.25, "agi-stride2": 1.20}
BF16_BAR = 0.58


RECIPE = Case("recipe", (16, 32, 64, 128), 4, 48)
LARGE = Case("recipe-64", (16, 32, 64, 128), 4, 64, seconds=5)
MIDDLE = Case("middle", (32, 64, 128, 256), 8, 48, seconds=8)
PAPER = Case("paper", (64, 128, 256, 512), 8, 32, seconds=10)
SLICES = Case("paper-2d", (64, 128, 256, 512), 8, 64, dim=2, batch=4, seconds=2)
CASES = (RECIPE, LARGE, MIDDLE, PAPER, SLICES)


def rows() -> list[Row]:
    """All rows, in the order of the table."""
    return [
        *train_rows(), *infer_rows(), *complete_rows(RECIPE), *memory_rows(), *precision_rows(),
        *compiled_rows(), *page_rows(LARGE),
    ]  # fmt: skip


def train_rows() -> Iterator[Row]:
    """A training step: forward, L1, backward, Adam."""
    for case in CASES:
        for dtype in ("fp32", "bf16"):
            for layout in ("channels_last", "contiguous"):
                first = layout == "channels_last"
                if not first and case is not RECIPE:
                    continue
                names = ["agi", "agi-stride2"]
                if case is RECIPE and dtype == "fp32" and first:
                    names += ["agi-recomputed", ROLL_ONLY, "gr", "ca", "deform"]
                if case is SLICES and dtype == "fp32":
                    names += ["deform", "arc"]
                yield _row("train", case, names, dtype, layout, TRAIN_BARS)


def infer_rows() -> Iterator[Row]:
    """A forward pass without gradients."""
    for case in (RECIPE, MIDDLE):
        for dtype in ("fp32", "bf16"):
            names = ["agi", "agi-stride2"]
            yield _row("infer", case, names, dtype, "channels_last", INFER_BARS, 0.3)


def memory_rows() -> Iterator[Row]:
    """How far a process climbs in two training steps without an optimiser."""
    for case in (RECIPE, LARGE):
        row = Row(
            f"memory/{case.name}/fp32/channels_last", str(case), partial(_memory, case=case),
            memory_format="channels_last", candidate="agi", cost=15 * case.seconds,
        )  # fmt: skip
        yield row


def precision_rows() -> Iterator[Row]:
    """A step in bfloat16 against the same in float32."""
    yield Row(
        "precision/recipe/channels_last", str(RECIPE), partial(_precision, case=RECIPE),
        dtype="bf16", memory_format="channels_last", candidate="agi", baseline="fp32",
        bar=BF16_BAR, cost=4 * RECIPE.seconds,
    )  # fmt: skip


def compiled_rows() -> Iterator[Row]:
    """A step of AGI-Net with the compiled convolutions against the same in torch's."""
    yield Row(
        "compiled/recipe/fp32/channels_last", str(RECIPE), partial(_compiled, case=RECIPE),
        memory_format="channels_last", candidate="agi", baseline="by torch",
        cost=3 * RECIPE.seconds,
    )  # fmt: skip


def _row(
    group: str,
    case: Case,
    names: list[str],
    dtype: str,
    layout: str,
    bars: dict[str, float],
    share: float = 1.0,
) -> Row:
    measure = partial(_compare, case=case, names=names, bars=bars, group=group)
    cost = share * case.seconds * (1 + 1.3 * len(names)) * (0.5 if dtype == "bf16" else 1)
    quick = case is RECIPE and dtype == "fp32" and layout == "channels_last"
    return Row(
        f"{group}/{case.name}/{dtype}/{layout}", str(case), measure, dtype, layout,
        candidate=names[0], cost=cost, quick=quick,
    )  # fmt: skip


def _compare(
    row: Row, setting: Setting, case: Case, names: list[str], bars: dict[str, float], group: str
) -> list[Result]:
    _refuse_slow_bf16(row.dtype, setting.device)
    calls = {name: _call(case, name, row, setting, group) for name in ["plain", *names]}
    taken = take(setting, calls)
    found = []
    for name in names:
        ratio = compare(taken[name], taken["plain"])
        found.append(
            row.result(
                candidate=name,
                value=ratio.median,
                lowest=ratio.lowest,
                of_minima=ratio.of_minima,
                rounds=setting.rounds,
                bar=bars.get(name),
                clock=setting.clock.name,
                seconds=summary({key: taken[key] for key in ("plain", name)}),
            )  # fmt: skip
        )
    return found


def _precision(row: Row, setting: Setting, case: Case) -> list[Result]:
    _refuse_slow_bf16("bf16", setting.device)
    fp32 = Row(row.name, row.shape, row.measure, "fp32", row.memory_format)
    calls = {
        "agi": _call(case, "agi", row, setting, "train"),
        "fp32": _call(case, "agi", fp32, setting, "train"),
    }
    return [timed(row, setting, calls)]


def _compiled(row: Row, setting: Setting, case: Case) -> list[Result]:
    if setting.device.type != "cpu" or cpu_library.library() is None:
        raise SkipRow("there are no compiled convolutions here")
    step = _call(case, "agi", row, setting, "train")

    def by_torch() -> None:
        with cpu_library.left_out():
            step()

    return [timed(row, setting, {"agi": step, "by torch": by_torch})]


def _call(case: Case, name: str, row: Row, setting: Setting, group: str) -> Call:
    """One training step or one forward pass of a network, ready to be repeated."""
    layout = FORMATS[case.dim] if row.memory_format == "channels_last" else torch.contiguous_format
    network = case.network(name).to(setting.device, memory_format=layout)
    x = case.image().to(setting.device, memory_format=layout)
    autocast = torch.autocast(setting.device.type, torch.bfloat16, enabled=row.dtype == "bf16")
    if group != "infer":
        return training_step(network, x, autocast)
    network.eval()

    def infer() -> Tensor:
        with torch.inference_mode(), autocast:
            return network(x)

    return infer


def _refuse_slow_bf16(dtype: str, device: torch.device) -> None:
    if dtype == "bf16" and device.type == "cpu" and not has_bfloat16(device):
        raise SkipRow("this processor has no bfloat16 instructions")


def _memory(row: Row, setting: Setting, case: Case) -> list[Result]:
    if setting.device.type != "cpu" or not STATUS.exists():
        raise SkipRow(f"peak memory is read from {STATUS}, for the CPU only")
    names = ("plain", "agi", "agi-recomputed", "agi-stride2")
    peaks = {name: _peak(case, name, setting.threads) for name in names}
    return [
        row.result(
            candidate=name,
            value=peaks[name] / peaks["plain"],
            rounds=1,
            bar=MEMORY_BARS.get(name),
            note=f"{peaks[name] / 2**20:.0f} : {peaks['plain'] / 2**20:.0f} MiB",
        )  # fmt: skip
        for name in names[1:]
    ]


def _peak(case: Case, name: str, threads: int) -> int:
    """Bytes that two steps add to a process of their own."""
    task = {"case": case.name, "network": name, "threads": threads}
    return ask_a_process("synth3d.bench_rows", task)


def child(task: str) -> int:
    """Bytes of resident memory that two training steps add, the optimiser's not included."""
    what = json.loads(task)
    give_back_memory()
    torch.set_num_threads(what["threads"])
    case = next(case for case in CASES if case.name == what["case"])
    layout = FORMATS[case.dim]
    network = case.network(what["network"]).to(memory_format=layout)
    x = case.image().to(memory_format=layout)
    small = x[..., :16, :16].narrow(2, 0, 16).contiguous(memory_format=layout)
    network(small).sum().backward()  # libraries load and settle
    before = resident("VmRSS")
    RESET.write_text("5")  # the peak counts from here
    for _ in range(2):
        network(x).abs().mean().backward()
        network.zero_grad()
    return resident("VmHWM") - before


if __name__ == "__main__":
    print(child(sys.argv[1]))
