"""A request is what the command line is, and the same from Python."""

import json
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from synth3d.cli import build_parser, main
from synth3d.cohort import find_cases
from synth3d.cohort.splits import make_splits, write_splits
from synth3d.data.task import Task
from synth3d.errors import InputError
from synth3d.images.volumes import read_label, write_like
from synth3d.training import Cost, TrainRequest, build_framework, recipe_names, resolve, train_run

TINY = {
    "widths": (4, 8), "patch": (16, 16, 16), "steps": 2, "threads": 1, "device": "cpu",
    "model": "resunet", "framework": "l1", "recipe": "phantom", "precision": "fp32",
}  # fmt: skip


def test_a_request_has_the_flags_of_the_command_and_their_defaults():
    flags = vars(build_parser().parse_args(["train"]))
    del flags["run_command"], flags["cohort_table"], flags["manner"]
    assert TrainRequest(**flags | {"assign": tuple(flags["assign"])}) == TrainRequest()


def test_a_run_from_python_ends_in_its_folder(phantom_cohort, tmp_path, capsys):
    request = TrainRequest(phantom_cohort, work=tmp_path, name="run", **TINY)
    run = train_run(request)
    assert run == tmp_path / "runs" / "run"
    assert json.loads((run / "done.json").read_text())["finished"]
    assert train_run(request) == run
    assert "already trained" in capsys.readouterr().out


@pytest.mark.parametrize("extra", [{}, {"target": "t2f"}, {"sources": "t1,t1ce,t2"}])
def test_a_degraded_sequence_is_the_last_source_and_the_target(extra):
    config = resolve(TrainRequest(degraded="flair=4,1,1", **TINY | extra), "cpu")
    assert config.task == Task(
        3, ("t1n", "t1c", "t2w", "t2f"), ("t2f",), "fixed", ("t2f",), (4, 1, 1)
    )
    assert config.degrade.ratio == (4, 1, 1)
    less = resolve(TrainRequest(degraded="t1ce=1,1,8", **TINY | {"sources": "t2"}), "cpu")
    assert (less.sources, less.targets) == (("t2w", "t1c"), ("t1c",))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"degraded": "flair"}, "--degraded wants a sequence and how much larger its voxels"),
        ({"degraded": "flair=4,1"}, "--degraded wants a sequence"),
        ({"degraded": "flair=1,1,1"}, "--degraded wants a sequence"),
        ({"degraded": "flair=3,1,1"}, "degrade.ratio must be three of 1, 2, 4, 8, 16, 32"),
        ({"degraded": "flair=-4,4,1"}, "degrade.ratio must be three of"),
        ({"degraded": "flair=32,1,1"}, r"data.patch\[z\] must be a multiple of 32"),
        ({"degraded": "flare=4,1,1"}, "'flare' is not a modality"),
        ({"degraded": "flair=4,1,1", "target": "any"}, "--target asks for any; leave --target"),
        ({"degraded": "flair=4,1,1", "target": "t1ce"}, "--target asks for t1ce"),
        ({"degraded": "flair=4,1,1", "assign": ["mode=any"]}, "mode any makes from one list"),
        ({"degraded": "flair=4,1,1", "dim": "2d", "patch": (16, 16)}, "degrade.ratio must be 1 al"),
        ({"degraded": "flair=4,1,1", "framework": "mmgan"}, "mmgan hides sources and cannot rest"),
    ],
)
def test_a_degraded_sequence_that_cannot_be_restored_is_refused(asked, words):
    with pytest.raises(InputError, match=words):
        build_framework(resolve(TrainRequest(**TINY | asked), "cpu"))


@pytest.mark.parametrize(
    ("asked", "varied"),
    [
        ({}, True),
        ({"target": "any"}, True),
        ({"framework": "mmgan", "target": "any"}, False),
        ({"degraded": "flair=4,1,1"}, False),
    ],
)
def test_a_recipes_varied_sources_are_left_out_where_none_may_vary(asked, varied):
    request = TrainRequest(recipe="cpu", **asked)
    assert (resolve(request, "cpu").data.vary > 0) == varied
    by_name = replace(request, assign=("data.vary=0.2",))
    if varied:
        assert resolve(by_name, "cpu").data.vary == 0.2
        return
    with pytest.raises(InputError, match=r"data\.vary must be 0"):
        resolve(by_name, "cpu")


def test_a_ratio_larger_than_a_case_is_refused_before_anything_is_written(
    phantom_cohort, tmp_path, capsys
):
    data = shutil.copytree(phantom_cohort, tmp_path / "data")
    name = make_splits(find_cases(data)).train[0]
    for path in (data / name).glob("*.nii.gz"):
        image = nib.load(path)
        nib.save(image.slicer[:, :, 10:24], path)
    flags = ["--degraded", "flair=16,1,1", "--recipe", "phantom", "--framework", "l1"]
    flags += ["--work", str(tmp_path / "work"), "--device", "cpu"]
    assert main(["train", "--data", str(data), *flags]) == 2
    said = capsys.readouterr().err
    assert f"error: case {name}: voxels (16, 1, 1) times as long" in said
    assert "larger than its grid of (14, 32, 32)" in said
    assert not [*tmp_path.glob("work/runs/*")]


def test_bad_files_stop_it_with_one_sentence_that_names_them(phantom_cohort, tmp_path, capsys):
    data = shutil.copytree(phantom_cohort, tmp_path / "data")
    names = make_splits(find_cases(data))
    bad = next(data.glob(f"*/{names.train[0]}-t2w.nii.gz"))
    bad.write_bytes(bad.read_bytes()[:-99])
    odd = next(data.glob(f"*/{names.val[0]}-seg.nii.gz"))
    write_like(odd, read_label(odd).data * 7, odd)
    flags = ["--work", str(tmp_path), "--recipe", "phantom", "--device", "cpu", "--steps", "2"]
    assert main(["train", "--data", str(data), *flags]) == 2
    said = capsys.readouterr().err
    assert said.count("error: ") == said.count(f"{bad} is truncated") == 1
    assert f"error: {odd}: label values [7, 14, 21] are in no scheme" in said
    assert "Traceback" not in said
    assert not [*tmp_path.rglob("weights.safetensors")]


def test_headers_and_labels_are_judged_before_anything_is_written(phantom_cohort, tmp_path, capsys):
    data, work = shutil.copytree(phantom_cohort, tmp_path / "data"), tmp_path / "work"
    flags = ["--work", str(work), "--recipe", "phantom", "--device", "cpu", "--steps", "2"]
    names = make_splits(find_cases(data))
    label = next(data.glob(f"*/{names.train[0]}-seg.nii.gz"))
    write_like(label, read_label(label).data * 7, label)
    assert main(["train", "--data", str(data), *flags, "--dry-run"]) == 2
    assert "label values [7, 14, 21] are in no scheme" in capsys.readouterr().err
    for name in (names.train[0], names.val[0]):
        leaning = next(data.glob(f"*/{name}-t2w.nii.gz"))
        image = nib.load(leaning)
        affine = image.affine.copy()
        affine[0, 1] += 0.15 * np.abs(affine).max()
        nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), affine), leaning)
    for more in ([], ["--dry-run"]):
        assert main(["train", "--data", str(data), *flags, *more]) == 2
        said = capsys.readouterr().err
        assert said.count("sheared") == 2
        assert not work.exists()


def test_a_targets_sources_are_the_others_of_the_recipe_or_of_brats():
    grid = ("data.common_grid=pd",)
    for recipe, target, sources in (
        ("ixi-2d", "t1", ("t2w", "pd")),
        ("ixi-2d", "t2", ("t1n", "pd")),
        ("phantom", "t1ce", ("t1n", "t2w", "t2f")),
        ("phantom", "pd", ("t1n", "t2w")),
    ):
        assign = grid if target == "t2" else ()
        request = TrainRequest(recipe=recipe, target=target, assign=assign)
        assert resolve(request, "cpu").sources == sources


def test_any_is_one_list_of_whoever_names_it_first(tmp_path):
    """The flag, then a recipe for any, then the cohort; a fixed recipe's lists say nothing."""
    four = ("t1n", "t1c", "t2w", "t2f")
    recipe = tmp_path / "any.toml"
    recipe.write_text('mode = "any"\nsources = ["t1n", "t2w", "t2f"]\n')
    for given, held, sequences in (
        ({"recipe": "cpu-2d"}, (), four),
        ({"recipe": "cpu-2d"}, ("t1n", "t2w", "pd"), ("t1n", "t2w", "pd")),
        ({"recipe": str(recipe)}, four, ("t1n", "t2w", "t2f")),
        ({"recipe": str(recipe), "sources": "t1,flair"}, four, ("t1n", "t2f")),
    ):
        config = resolve(TrainRequest(target="any", **given), "cpu", held)
        assert config.task == Task(config.dim, sequences, sequences, "any")
    assert resolve(TrainRequest(recipe=str(recipe)), "cpu").mode == "any"
    back = resolve(TrainRequest(recipe=str(recipe), target="t2"), "cpu")
    assert (back.mode, back.sources) == ("fixed", ("t1n", "t2f"))


def test_any_takes_either_list_and_refuses_two_that_differ(tmp_path):
    recipe, both = tmp_path / "any.toml", 'mode = "any"\nsources = ["t1", "t2"]\ntargets = {}\n'
    for text, assign, sequences in (
        ('mode = "any"\ntargets = ["t1c", "t2f"]\n', (), ("t1c", "t2f")),
        (both.format('["t2w", "t1n"]'), (), ("t1n", "t2w")),
        (both.format('["t1n", "t2w"]'), ("targets=['t1c','t2f']",), ("t1c", "t2f")),
        (both.format('["t1n", "t2w"]'), ("sources=['t1c','t2f']",), ("t1c", "t2f")),
        (both.format('["t1n", "t2f"]'), (), None),
        (both.format('["t1n", "t2w"]'), ("sources=['t1']", "targets=['t2']"), None),
    ):
        recipe.write_text(text)
        request = TrainRequest(recipe=str(recipe), assign=assign)
        if sequences:
            config = resolve(request, "cpu", ("t1n", "t1c", "t2w", "t2f"))
            assert config.sources == config.targets == sequences
        else:
            with pytest.raises(
                InputError, match=r"sources t1.* and targets .*; give sources alone"
            ):
                resolve(request, "cpu")


def test_a_sequence_that_only_lone_images_show_is_left_out(phantom_cohort, tmp_path, capsys):
    data = shutil.copytree(phantom_cohort, tmp_path / "data")
    splits = make_splits(find_cases(data))
    write_splits(tmp_path / "splits.json", splits)
    first, *others = splits.train
    for gone, names in (("t2f", others), ("t1[nc]", [first]), ("t2w", [first])):
        for name in names:
            for path in data.glob(f"{name}/*-{gone}.nii.gz"):
                path.unlink()
    request = {"data": data, "work": tmp_path, "target": "any", "dry_run": True, **TINY}
    request["splits"] = tmp_path / "splits.json"
    assert train_run(TrainRequest(**request)) is None
    said = capsys.readouterr().out
    assert "left out, in no training case beside another sequence: t2f" in said
    assert f"left out, no two of t1n/t1c/t2w: {first}" in said
    with pytest.raises(InputError, match=r"no training case with two of .* has t2f; say with"):
        train_run(TrainRequest(**request, sources="t1,t1ce,t2,flair"))
    drawn = TrainRequest(**request | {"splits": None})
    assert train_run(drawn) is None  # among cases by which something is taught
    assert f"without {first}; the split is drawn among these" in capsys.readouterr().out


@pytest.mark.parametrize("recipe", recipe_names())
@pytest.mark.parametrize("side", [None, 64])
def test_tiles_share_a_quarter_in_every_recipe_and_for_any_patch(recipe, side):
    dim = resolve(TrainRequest(recipe=recipe), "cpu").dim
    patch = None if side is None else (side,) * dim
    data = resolve(TrainRequest(recipe=recipe, patch=patch), "cpu").data
    assert side is None or data.patch == patch
    assert data.overlap == tuple(size // 4 for size in data.patch)


@pytest.mark.parametrize("known", [True, False])
def test_a_dry_run_writes_nothing_and_refuses_what_cannot_be_trained(known, tmp_path):
    request = TrainRequest(work=tmp_path, dry_run=True, **TINY, assign=("train.l1.l1_weight=3",))
    if known:
        assert train_run(request) is None
    else:
        with pytest.raises(InputError, match=r"train.pgan.l1_weight has no effect"):
            train_run(TrainRequest(assign=("train.pgan.l1_weight=3",), dry_run=True))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("memory", "recipe"), [(8, "gpu-8gb"), (24, "gpu")])
def test_a_gpu_gets_the_recipe_that_fits_it(phantom_cohort, monkeypatch, capsys, memory, recipe):
    """An 8 GB laptop must begin to train with nothing but --data."""
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("synth3d.machine.has_bfloat16", lambda device: True)
    monkeypatch.setattr("synth3d.machine.why_no_code", lambda device: "")
    monkeypatch.setattr(
        "synth3d.training.request.gpu_bytes", lambda which: asked.append(which) or memory * 10**9
    )
    cost = Cost(0.1, 10**9, 10**6)  # there is no such GPU here
    monkeypatch.setattr("synth3d.training.forecast.plan.cost_of", lambda *about: cost)
    assert train_run(TrainRequest(data=phantom_cohort, dry_run=True)) is None
    said = capsys.readouterr().out
    assert f" {recipe} (" in said.splitlines()[0]
    assert " on cuda" in said
    assert {*asked} == {"cuda"}


@pytest.mark.parametrize(
    ("sides", "more", "fits"),
    [
        ((16, 32, 32), {}, True),
        ((8, 32, 32), {}, False),  # 8, 4, 2
        ((8, 32, 32), {"precision": "fp32"}, True),
        ((8, 32, 32), {"widths": (8, 16)}, True),  # 8, 4
        ((16, 32, 32), {"degraded": "flair=8,1,1"}, True),  # what is coarse is interpolated
        ((32, 8, 8), {}, True),  # the other axes may have two voxels
    ],
)
def test_two_voxels_of_depth_are_too_few_for_bfloat16_on_a_cpu(
    sides, more, fits, tmp_path, monkeypatch
):
    monkeypatch.setattr("synth3d.machine.has_bfloat16", lambda device: True)
    cost = Cost(0.1, 10**9, 10**6)  # bfloat16 may be very slow here
    monkeypatch.setattr("synth3d.training.forecast.plan.cost_of", lambda *about: cost)
    asked = TINY | {"widths": (4, 8, 16), "patch": sides, "precision": "bf16", "dry_run": True}
    request = TrainRequest(work=tmp_path, **asked | more)
    if fits:
        train_run(request)
        return
    with pytest.raises(InputError, match="two voxels deep.*--precision fp32"):
        train_run(request)


def test_the_gradient_of_bfloat16_is_wrong_at_no_depth_but_two():
    """What is refused is what torch does wrong; once it is right at 2, the refusal may go."""
    torch.manual_seed(0)
    for depth in (1, 3, 4, 6):
        found = []
        x, weight = torch.randn(2, 8, depth, 8, 8), torch.randn(8, 8, 3, 3, 3) / 8
        for dtype in (torch.float32, torch.bfloat16):
            kernel = weight.to(dtype).clone().requires_grad_()
            made = torch.nn.functional.conv3d(x.to(dtype), kernel, padding=1)
            made.float().square().sum().backward()
            found.append(kernel.grad.float())
        assert (found[0] - found[1]).norm() < 0.05 * found[0].norm()
