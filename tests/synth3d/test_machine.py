"""What a machine offers: bfloat16 or float32 in its place, cuDNN tuned, and GPUs of a stand-in."""

import contextlib
import json
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from synth3d import machine as precision
from synth3d.cli import main
from synth3d.errors import InputError
from synth3d.training import Cost
from synth3d.training.recipes import read_recipe


def resolved(capsys, *flags):
    assert main(["train", "--dry-run", "--json", "--device", "cpu", *flags]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (plan,) = [one for one in events if one["event"] == "plan"]
    return plan["settings"]["train"]["precision"]


@pytest.fixture(params=[True, False])
def machine(request, monkeypatch):
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: request.param)
    cost = Cost(0.1, 10**9, 10**6)  # what a machine cannot do is not timed on it
    monkeypatch.setattr("synth3d.training.forecast.plan.cost_of", lambda *about: cost)
    return request.param


def test_what_is_timed_is_timed_again_while_that_takes_little(monkeypatch):
    """By a clock that our own work alone moves."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def taking(*each):
        left = iter(each)
        return lambda: now.__setitem__(0, now[0] + next(left))

    assert precision.seconds_of(taking(13.0, 1.0)) == [13.0]
    assert min(precision.seconds_of(taking(0.9, 0.1, 0.8, 0.1, 0.9, 0.0))) == pytest.approx(0.1)
    assert len(precision.seconds_of(taking(*[0.01] * 100))) < 10
    assert sum(precision.seconds_of(taking(*[2.0] * 100))) < 10


@pytest.mark.parametrize(("load", "busy"), [(0.2, False), (2.0, False), (5.2, True)])
def test_a_machine_with_more_to_do_than_cores_is_called_busy(monkeypatch, capsys, load, busy):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1}, raising=False)
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    cost = Cost(0.1, 10**9, 10**6)
    monkeypatch.setattr("synth3d.training.forecast.plan.cost_of", lambda *about: cost)
    assert main(["train", "--dry-run", "--recipe", "phantom", "--device", "cpu"]) == 0
    assert ("load 5 on 2 cores" in capsys.readouterr().out) == busy


def test_a_recipe_in_bfloat16_follows_the_machine(machine, capsys):
    assert read_recipe("phantom")["train"]["precision"] == "bf16"
    assert resolved(capsys, "--recipe", "phantom") == ("bf16" if machine else "fp32")
    assert precision.suited("fp32", "cpu") == "fp32"


def test_who_asks_for_a_precision_gets_it(machine, capsys, tmp_path):
    assert resolved(capsys, "--recipe", "phantom", "--precision", "bf16") == "bf16"
    assert resolved(capsys, "--recipe", "phantom", "--set", "train.precision=bf16") == "bf16"
    assert resolved(capsys, "--recipe", "phantom", "--precision", "fp32") == "fp32"
    saved = tmp_path / "config.json"
    saved.write_text(json.dumps(read_recipe("phantom")))
    assert resolved(capsys, "--recipe", str(saved)) == "bf16"


def test_a_processor_with_its_instructions_has_bfloat16():
    if torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported():
        assert precision.has_bfloat16("cpu")
    if not torch.cpu._is_avx512_supported():
        assert not precision.has_bfloat16("cpu")


@pytest.fixture
def cudnn(monkeypatch):
    """cuDNN's flag, off, and the devices that were made torch's current one."""
    current = []
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(torch.cuda, "device", lambda one: contextlib.closing(Current(current, one)))
    return current


class Current:
    def __init__(self, current, device):
        self.current = current
        current.append(str(device))

    def close(self):
        self.current.append("left")


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(("device", "inside"), [("cpu", False), ("cuda:1", True)])
def test_cudnn_is_tuned_for_a_gpu_and_as_it_was_afterwards(cudnn, device, inside, fails):
    with contextlib.suppress(KeyError), precision.tuned(device):
        assert torch.backends.cudnn.benchmark is inside
        if fails:
            raise KeyError
    assert torch.backends.cudnn.benchmark is False
    assert cudnn == (["cuda:1", "left"] if inside else [])


@pytest.mark.parametrize("first", [0, 1])
def test_several_blocks_at_once_are_left_in_any_order(cudnn, first):
    blocks = [contextlib.ExitStack() for _ in range(2)]
    for block in blocks:
        block.enter_context(precision.tuned("cuda:0"))
    blocks[first].close()
    assert torch.backends.cudnn.benchmark is True
    blocks[1 - first].close()
    assert torch.backends.cudnn.benchmark is False


@pytest.fixture
def two_gpus(monkeypatch):
    """An old GPU 0 that is full and must not be asked anything, and GPU 1; notes who is asked."""
    asked, current = [], [0]

    def answer(value):
        def tell(device=None):
            index = current[-1] if device is None else torch.device(device).index
            index = current[-1] if index is None else index
            asked.append(index)
            return value

        return tell

    @contextmanager
    def using(device):
        current.append(torch.device(device).index)
        yield
        current.pop()

    def become(device):
        current[:] = [torch.device(device).index]

    facts = {
        "is_available": lambda: True, "device_count": lambda: 2, "device": using,
        "set_device": become, "get_device_name": answer("Test 9000"),
        "get_device_capability": answer((8, 9)),
        "get_device_properties": answer(SimpleNamespace(total_memory=8 * 10**9)),
        "is_bf16_supported": lambda including_emulation: answer(True)(),
        "current_device": lambda: current[-1],
    }  # fmt: skip
    for name, fact in facts.items():
        monkeypatch.setattr(torch.cuda, name, fact)
    # cuDNN compares the properties of all GPUs, which opens no context on any.
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 92600)
    return SimpleNamespace(asked=asked, current=current)


def test_a_numbered_gpu_is_asked_and_no_other(two_gpus):
    device = precision.pick_device("cuda:1")
    assert precision.suited("bf16", device) == "bf16"
    assert precision.gpu_bytes(device) == 8 * 10**9
    assert precision.environment(device)["device"]["gpu"] == "Test 9000"
    assert (two_gpus.current, {*two_gpus.asked}) == ([0], {1})
    assert precision.use_device(device) == torch.device("cuda", 1)
    assert two_gpus.current == [1]


BUILT_FOR = ["sm_75", "sm_80", "sm_86", "sm_90a", "sm_100", "sm_120", "compute_120"]


@pytest.mark.parametrize(
    ("capability", "works"),
    [
        ((6, 1), False), ((7, 0), False), ((7, 5), True), ((8, 9), True), ((9, 0), True),
        ((9, 1), False), ((10, 3), True), ((11, 0), False), ((12, 1), True), ((13, 0), True),
    ],
)  # fmt: skip
def test_a_gpu_for_which_torch_has_no_code_is_left_alone(
    two_gpus, monkeypatch, capsys, capability, works
):
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: BUILT_FOR)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert precision.pick_device("auto") == ("cuda" if works else "cpu")
    assert ("no code for Test 9000" in capsys.readouterr().err) is not works
    told = contextlib.nullcontext() if works else pytest.raises(InputError, match="--device cpu")
    with told:
        assert precision.pick_device("cuda:1") == "cuda:1"


def test_where_nobody_tells_what_torch_was_built_for_its_gpus_are_used(two_gpus, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: [])
    assert precision.pick_device("auto") == "cuda"


def test_a_gpu_without_a_number_leaves_the_current_one(two_gpus):
    two_gpus.current[:] = [1]
    for name in ("cuda", "cpu"):
        assert precision.use_device(name) == torch.device(name)
    assert two_gpus.current == [1]


def test_the_record_says_what_may_change_numbers_on_a_gpu(two_gpus, monkeypatch):
    monkeypatch.setenv("CUDA_OPS_BACKEND", "torch")
    facts = precision.device_facts("cuda:1")
    assert facts["tf32"] == {"convolutions": True, "matmuls": False}
    assert facts["rolling"] == "torch: CUDA_OPS_BACKEND=torch"
    assert facts.keys() == {"name", "rolling", "gpu", "driver", "cuda", "cudnn", "tf32"}
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert not precision.tf32("cuda:1")["convolutions"]
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    assert not any(precision.tf32("cuda:1").values())
    assert precision.device_facts("cpu") == {"name": "cpu", "rolling": "torch"}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug", "535.104.05"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Rel", "580.65.06"),
        ("something else", None),
    ],
)
def test_the_driver_is_read_from_what_linux_tells(two_gpus, monkeypatch, text, number):
    monkeypatch.setattr(precision.Path, "read_text", lambda *_: text)
    assert precision.device_facts("cuda:1")["driver"] == number
