import dataclasses
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from synth3d.errors import InputError
from synth3d.experiments.describe import DescribeRequest, Memory
from synth3d.models.options import ModelConfig
from synth3d.settings import override, parse, parse_assignment, read_as, to_plain
from synth3d.training import request
from synth3d.training.config import RunConfig
from synth3d.training.recipes import read_recipe, recipe_names
from synth3d.training.request import default_recipe


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_valid_and_survives_json(name):
    config = parse(RunConfig, read_recipe(name))
    assert parse(RunConfig, json.loads(json.dumps(to_plain(config)))) == config


@pytest.mark.parametrize(
    ("device", "memory", "name"),
    [("cpu", 0, "cpu"), ("cuda:1", 8, "gpu-8gb"), ("cuda:1", 16, "gpu-8gb"), ("cuda:1", 24, "gpu")],
)
def test_the_recipes_that_commands_choose_by_themselves_ship(device, memory, name, monkeypatch):
    """By the memory of the device that was asked for, in GB as cards are sold."""
    asked = []
    monkeypatch.setattr(request, "gpu_bytes", lambda which: asked.append(which) or memory * 10**9)
    for data, wanted in ((None, "phantom"), (Path("BraTS"), name)):
        chosen = [default_recipe(data, device, dim) for dim in (None, "2d")]
        assert chosen == [wanted, f"{wanted}-2d"]
        assert set(chosen) <= set(recipe_names())
    assert set(asked) <= {device}


@pytest.mark.parametrize(("name", "dim"), [("gpu-8gb", "3d"), ("gpu-8gb-2d", "2d")])
def test_the_recipes_for_a_small_gpu_are_counted_to_fit_half_of_it(name, dim):
    """Beside the counted bytes there are the critic, cuDNN's workspaces and a desktop."""
    config = parse(RunConfig, read_recipe(name))
    options = config.model
    stride = f"routing_stride={options.routing_stride}"
    what = DescribeRequest("agi-net", dim, options.widths, options.groups, assign=(stride,))
    memory = Memory(replace(what, precision="bf16"))
    assert memory.step(config.data.patch[0], config.data.batch, recompute=False) < 4 * 10**9


def test_the_published_experiments_in_two_dimensions_are_as_printed():
    brats, ixi = (parse(RunConfig, read_recipe(name)) for name in ("paper-2d", "ixi-2d"))
    assert (brats.sources, brats.targets) == (("t1n", "t2w"), ("t2f",))
    assert (ixi.sources, ixi.targets) == (("t1n", "t2w"), ("pd",))
    for config, side, slices in ((brats, 240, 80), (ixi, 256, 90)):
        assert (config.dim, config.data.plane, config.data.patch) == (2, "axial", (side, side))
        assert (config.data.slices_per_case, config.data.intensity) == (slices, "paper")
        assert config.model == ModelConfig()
        assert (config.train.framework, config.train.steps) == ("pix2pix", 120_000)
        assert (config.train.learning_rate, config.data.batch) == (1e-4, 16)
    assert (brats.data.slice_size, ixi.data.slice_size) == ((), (256, 256))
    assert parse(RunConfig, read_recipe("paper-3d")).model == ModelConfig()
    assert (RunConfig().train.steps, RunConfig().train.learning_rate) == (120_000, 1e-4)


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("train.stpes", 1, r"config.train: unknown key\(s\) \['stpes'\]"),
        ("train.steps", "many", "config.train.steps: expected int, got 'many'"),
        ("train.steps", True, "config.train.steps: expected int, got True"),
        ("train.steps", 0, "train.steps must be at least 1"),
        ("train.precision", "fp16", "train.precision must be fp32 or bf16"),
        ("train.betas", [0.5], "expected a list of 2 values"),
        ("train.betas", [1.5, 0.9], r"train.betas must be in \[0, 1\)"),
        ("train.learning_rate", -1, "train.learning_rate must be finite"),
        ("train.seed", 2**64, "train.seed: expected a whole number of 64 bits"),
        ("train.seed", -1, "train.seed must be a whole number"),
        # What would be built, or waited for, without end.
        *[
            (key, 10**12, f"{key} must be .*(at most|0 to)")
            for key in (
                "data.batch",
                "data.workers",
                "data.queue",
                "model.groups",
                "model.blocks",
                "train.threads",
                "train.pix2pix.critic_width",
            )
        ],
        ("train.steps", 10**400, "whole number of 64 bits"),
        ("train.steps", 10**13, "train.steps must be at most"),
        ("train.critic_layers", 10**12, "critic_layers must be at most"),
        ("train.ddpm.diffusion_steps", 10**12, "diffusion_steps must be at most"),
        ("model.widths", [8] * 11, "model.widths must be at most"),
        ("model.widths", [8, 10**12], "model.widths must be .*at most"),
        ("data.patch", [48, 48, 10**9], "data.patch must be at most"),
        ("train.threads", -2, "train.threads must be"),
        ("train", 3, "config.train: expected a table"),
        ("model", [], "config.model: expected a table"),
        ("data.patch", [48, 48, "x"], r"config.data.patch\[2\]: expected int"),
        ("data.patch", [48, 48, 50], r"data.patch\[x\] must be a multiple of 8"),
        ("data.overlap", [24, 25, 24], r"data.overlap\[y\] must be even"),
        ("data.overlap", [8, 8], r"data.overlap must be as many numbers as data.patch"),
        ("data.batch", 0, "data.batch must be at least 1, got 0"),
        ("data.patches_per_case", 0, "data.patches_per_case must be"),
        ("data.plane", "oblique", "data.plane must be axial or coronal or sagittal, got 'obl"),
        ("data.slices_per_case", -1, "data.slices_per_case must be ≥ 0, got -1"),
        ("data.slices_per_case", 9, "data.slices_per_case must be left out where dim is 3"),
        ("data.slice_size", [64, 64], "data.slice_size must be left out where dim is 3"),
        ("data.slice_size", [64], "data.slice_size must be two positive numbers or none"),
        ("data.slice_size", [64, 0], "data.slice_size must be two positive numbers or none"),
        ("data.intensity", "p99", "data.intensity must be median or paper, got 'p99'"),
        ("data.workers", -1, "data.workers must be ≥ 0"),
        ("data.common_grid", "pd", r"data.common_grid must be one of the sources \['t1n'"),
        ("targets", ["t1n"], "sources and targets must be disjoint"),
        ("targets", ["ct"], "ct"),
        ("dim", 2, "data.patch must be 2 numbers, as dim is 2"),
        ("data", {"patch": [48, 48], "overlap": [0, 0]}, "data.patch must be 3 numbers"),
        ("misalign", {"source": "pd", "shift": 3}, "misalign.source must be one of the so"),
        ("misalign", {"source": "flair", "shift": 3}, "misalign.when must be train where a"),
        (
            "misalign",
            {"source": "t2", "shift": 3, "when": "train"},
            "misalign.when must be train_and_test or test_only where a source",
        ),
        ("misalign.shift", 3, "misalign.source must be .*, to say what moves"),
        ("misalign", {"source": "t2", "shift": -1}, "misalign.shift must be finite and ≥ 0"),
        ("misalign.draw", "disc", "misalign.draw must be uniform_box or fixed_magnitude"),
        ("misalign.when", "never", "misalign.when must be train_and_test, test_only or"),
    ],
)
def test_a_mistake_is_named_with_its_place(key, value, rule):
    values = {}
    override(values, key, value)
    with pytest.raises(InputError, match=rule):
        parse(RunConfig, values)


def test_no_common_grid_where_any_sequence_may_lack():
    four = ["t1n", "t1c", "t2w", "t2f"]
    values = {"mode": "any", "sources": four, "targets": four, "data": {"common_grid": "t2"}}
    with pytest.raises(InputError, match="data.common_grid must be left out where mode is any"):
        parse(RunConfig, values)


def test_aliases_are_understood_at_the_edge():
    config = parse(RunConfig, {"sources": ["T1", "t1ce"], "targets": ["flair"]})
    assert (config.sources, config.targets) == (("t1n", "t1c"), ("t2f",))
    moved = parse(RunConfig, {"misalign": {"source": "T2", "shift": 3}})
    assert moved.misalign.source == "t2w"
    assert moved.misalign.active
    assert not RunConfig().misalign.active


def test_assignments_are_toml_values_and_never_run():
    for text, value in {
        "10": 10, "1e-4": 1e-4, "[8, 16]": [8, 16], "false": False, "resunet": "resunet",
        "__import__('os').abort()": "__import__('os').abort()",
    }.items():  # fmt: skip
        assert parse_assignment(f"a.key={text}") == ("a.key", value)


def test_override_makes_tables_and_refuses_values_as_tables():
    values = {"dim": 3}
    override(values, "train.steps", 7)
    assert values == {"dim": 3, "train": {"steps": 7}}
    with pytest.raises(InputError, match="dim is a value"):
        override(values, "dim.x", 1)


def test_unknown_recipes_and_broken_files_are_told(tmp_path):
    with pytest.raises(InputError, match="unknown recipe 'nope'; known:"):
        read_recipe("nope")
    (tmp_path / "bad.toml").write_text("steps = = 3")
    with pytest.raises(InputError, match="cannot read the recipe"):
        read_recipe(str(tmp_path / "bad.toml"))
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(InputError, match="must be a table of settings"):
        read_recipe(str(tmp_path / "list.json"))


@dataclasses.dataclass(frozen=True)
class Entry:
    name: str
    size: float | None = None


def test_mappings_pairs_and_anything_are_parsed_strictly():
    assert parse(dict[str, Entry], {"a": {"name": "x", "size": 1}}) == {"a": Entry("x", 1.0)}
    assert parse(dict[str, tuple[int, str]], {"a": [1, "x"]}) == {"a": (1, "x")}
    assert parse(tuple[Entry, ...], []) == ()
    assert parse(Any, {"whatever": [None]}) == {"whatever": [None]}
    for schema, value, message in (
        (dict[str, Entry], [1], r"config: expected a table, got \[1\]"),
        (dict[str, Entry], {"a": {"name": 3}}, "config.a.name: expected str, got 3"),
        (tuple[int, str], ["x", "x"], r"config\[0\]: expected int, got 'x'"),
        (tuple[int, str], [1], "expected a list of 2 values"),
    ):
        with pytest.raises(InputError, match=message):
            parse(schema, value)


@pytest.mark.parametrize("text", ["{}", '[{"size": 1}]', '[{"name": "x", "age": 1}]', "["])
def test_a_record_that_is_not_as_it_was_written_names_its_file(tmp_path, text):
    path = tmp_path / "rows.json"
    path.write_text('[{"name": "x"}]')
    assert read_as(tuple[Entry, ...], path) == (Entry("x"),)
    path.write_text(text)
    with pytest.raises(InputError, match=r"rows.json is (damaged|not valid JSON)"):
        read_as(tuple[Entry, ...], path)
