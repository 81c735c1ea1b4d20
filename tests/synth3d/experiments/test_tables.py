"""Tables of experiments: every cell builds, and the printed numbers are those of the paper."""

import re
from pathlib import Path

import pytest
import torch

from synth3d.data import MisalignConfig, lengths
from synth3d.errors import InputError
from synth3d.experiments.asking import Question
from synth3d.experiments.plan import (
    choose_cells,
    configure,
    identity_of,
    normalised,
    with_budget,
    with_sources_alike,
)
from synth3d.experiments.tables import TABLES, Cell, Choices, Printed, find_table
from synth3d.frameworks import FRAMEWORKS
from synth3d.settings import override
from synth3d.training.config import build_framework
from synth3d.training.recipes import read_recipe

IXI, BRATS = "IXI T1,T2→PD", "BraTS T1,T2→FLAIR"
MOVE = Choices("t2w")
EXPERIMENTS = Path(__file__).parents[3] / "docs" / "experiments"
BASES = {2: "phantom-2d", 3: "phantom"}


def base(recipe: int | str, table: str = ""):
    if table.startswith("tsf"):
        recipe = {2: "tsf-cpu", 3: "tsf-3d"}.get(recipe, "tsf-paper-2d")
    values = normalised(read_recipe(BASES.get(recipe, recipe)))
    return values, configure(values)


def moving(name: str, **how) -> Choices:
    return Choices("t2w" if TABLES[name].moved == "sources" else "t2f", **how)


def cells_of(name: str, recipe: int | str, choices: Choices | None = None) -> dict[str, Cell]:
    cells = TABLES[name].cells(base(recipe, name)[1], choices or moving(name))
    return {cell.name: cell for cell in cells}


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.toml")), ids=lambda path: path.stem)
def test_the_tables_that_the_benchmarks_cite_can_be_run(path):
    _, table = find_table(str(path))
    flat = path.stem in ("slices", "moved")
    values = normalised(read_recipe("cpu-2d" if flat else "cpu"))
    cells, chosen = choose_cells(table, configure(values), MOVE)
    assert len(chosen) >= (2 if flat or path.stem in ("coarse", "longer") else 4)
    assert cells[0].against == ""
    assert {cell.against for cell in cells[1:]} == {cells[0].name}
    for cell in cells:
        made = configure(values, cell.overrides)
        assert made.misalign.shift == (3.0 if path.stem in ("shifted", "moved") else 0.0)
        with torch.device("meta"):
            build_framework(made, training=False)


def test_the_benchmarks_cite_every_table_in_the_folder():
    text = (EXPERIMENTS.parent / "benchmarks.md").read_text(encoding="utf-8")
    cited = set(re.findall(r"\b[a-z]+\.toml\b", text))
    assert {path.name for path in EXPERIMENTS.glob("*.toml")} == cited


@pytest.mark.parametrize(
    ("name", "only", "vary"),
    [
        ("components", None, 0.1),
        ("frameworks", None, 0.0),  # mmgan hides sources
        ("frameworks", "l1-*", 0.1),
        ("fgdl-ratio", None, 0.0),  # what is restored is a source, too
    ],
)
def test_cells_that_are_compared_vary_their_sources_alike(name, only, vary, capsys):
    values, config = base("cpu", name)
    override(values, "data.vary", 0.1)
    cells, chosen = choose_cells(TABLES[name], config, moving(name), only)
    wanted = [cell for cell in cells if cell.name in chosen]
    alike = with_sources_alike(values, wanted, [])
    assert {configure(alike, cell.overrides).data.vary for cell in wanted} == {vary}
    assert bool(capsys.readouterr().out) == (vary == 0)
    assert values["data"]["vary"] == 0.1
    if vary:
        assert with_sources_alike(values, wanted, ["data.vary"]) == values
    else:
        with pytest.raises(InputError, match=r"data\.vary=0\.1.*may not vary"):
            with_sources_alike(values, wanted, ["data.vary"])


@pytest.mark.parametrize("retrain", [False, True])
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("name", list(TABLES))
def test_every_cell_builds_and_has_its_baseline(name, dim, retrain):
    values, config = base(dim, name)
    for key, value in TABLES[name].defaults.items():
        override(values, key, value)
    choices = moving(name, retrain=retrain)
    cells, chosen = choose_cells(TABLES[name], config, choices)
    names = [cell.name for cell in cells]
    assert names == chosen
    assert len(set(names)) == len(names) >= 3
    kinds = set()
    for cell in cells:
        assert cell.against == "" or cell.against in names
        trained = configure(values, cell.overrides)
        tested = configure(values, cell.overrides, cell.testing)
        assert tested.model == trained.model
        kinds.add(repr([identity_of(trained), identity_of(tested), cell.asking]))
        with torch.device("meta"):
            build_framework(trained, training=False)
    assert len(kinds) == len(cells)  # different experiments


@pytest.mark.parametrize(
    ("table", "recipe", "names", "printed"),
    [
        ("components", 2, "conv gr ca cagr", 3),
        ("convolutions", 2, "std-aligned deform-aligned arc-aligned cagr-aligned std-shifted "
         "deform-shifted arc-shifted cagr-shifted", 3),
        ("groups", "paper-3d", "conv n1 n2 n4 n8 n16", 6),
        ("groups", 3, "conv n1 n2 n4 n8", 5),  # 16 do not divide a width
        ("stages", "paper-3d", "0-none 1-down1 2-down2 3-down3 4-body 5-up1 6-up2 7-up3", 8),
        ("stages", 3, "0-none 1-down1 2-down2 3-body 4-up1 5-up2", 1),  # not the paper's seven
    ],
)  # fmt: skip
def test_cells_follow_from_the_widths_and_are_printed_where_they_are_the_papers(
    table, recipe, names, printed
):
    cells = cells_of(table, recipe)
    assert list(cells) == names.split()
    assert sum(bool(cell.printed) for cell in cells.values()) == printed


def test_arc_is_left_out_in_3d_and_refused_by_name():
    _, config = base(3)
    cells, _ = choose_cells(TABLES["convolutions"], config, MOVE)
    assert not [cell for cell in cells if "arc" in cell.name]
    with pytest.raises(InputError, match=r"arc-aligned, arc-shifted is published in 2-D only"):
        choose_cells(TABLES["convolutions"], config, MOVE, "arc-*")
    _, chosen = choose_cells(TABLES["convolutions"], base(2)[1], MOVE, "arc-*")
    assert chosen == ["std-aligned", "arc-aligned", "std-shifted", "arc-shifted"]
    with pytest.raises(InputError, match="no such cell; the table has conv, gr, ca, cagr"):
        choose_cells(TABLES["components"], config, MOVE, "nothing")


@pytest.mark.parametrize("retrain", [False, True])
def test_a_curve_is_tested_only_or_trained_too(retrain):
    values, _ = base(3)
    assert {c.level for c in cells_of("translation", 3).values()} == {0, 0.5, 1, 1.5, 2, 2.5, 3}
    cell = cells_of("rotation", 3, Choices("t1n", "uniform_box", retrain))["agi-net-7.5"]
    tested = configure(values, cell.overrides, cell.testing).misalign
    assert (tested.source, tested.rotate, tested.draw) == ("t1n", 7.5, "uniform_box")
    assert configure(values, cell.overrides).misalign.active == retrain
    shifted = configure(values, cells_of("convolutions", 3)["cagr-shifted"].overrides).misalign
    assert (shifted.source, shifted.shift, shifted.draw) == ("t2w", 3.0, "fixed_magnitude")


def test_a_swapped_framework_keeps_its_own_losses_and_the_recipes_critic():
    values, config = base(2)
    assert config.train.options.adversarial_weight == 0.3
    cells = cells_of("frameworks", 2)
    assert cells.keys() == {
        f"{name}-{net}" for name in FRAMEWORKS if name != "tsf" for net in ("resunet", "agi-net")
    }
    for cell in cells.values():
        swapped = configure(values, cell.overrides).train
        own = FRAMEWORKS[swapped.framework].Options()
        if swapped.framework != "pix2pix":
            assert getattr(swapped.options, "l1_weight", None) == getattr(own, "l1_weight", None)
        if hasattr(own, "critic_width"):
            assert swapped.options.critic_width == config.train.options.critic_width == 16


def test_printed_numbers_are_the_papers():
    printed = {
        (table, name): cell.printed
        for table in TABLES for name, cell in cells_of(table, "paper-3d").items()
    }  # fmt: skip
    assert printed["components", "ca"] == printed["frameworks", "ddpm-agi-net"] == {}
    assert printed["components", "cagr"][IXI].psnr == printed["stages", "5-up1"][IXI].psnr == 34.96
    assert printed["convolutions", "cagr-shifted"][IXI] == Printed(gain=1.49)
    assert printed["frameworks", "ddpm-resunet"][BRATS] == Printed(20.14, 84.97, 4.18, mark="†")
    for numbers in (numbers for cells in printed.values() for numbers in cells.values()):
        if numbers.gain is not None and numbers.psnr is not None:
            assert min(abs(numbers.psnr - start - numbers.gain) for start in (34.38, 24.06)) < 0.006


def test_tables_of_any_gap_take_few_trainings_and_print_what_the_paper_does():
    values, _ = base(2, "tsf")
    cells = cells_of("tsf-inputs", 2)
    runs = {name: repr(identity_of(configure(values, c.overrides))) for name, c in cells.items()}
    assert (len(cells), len(set(runs.values()))) == (25, 6)
    assert runs["tsf-1"] == runs["tsf-plain-2"] == runs["tsf-averaged-3"] != runs["seq2seq-1"]
    assert cells["tsf-plain-2"].asking == Question(2, "plain")
    assert cells["agi-net-2"].against == "seq2seq-2"
    for table in ("tsf-map", "tsf-parts"):
        for inputs in (1, 2, 3):
            same = cells_of(table, 2)[f"tsf-{inputs}"]
            assert (same.overrides, same.asking) == (cells[f"tsf-{inputs}"].overrides,
                                                     cells[f"tsf-{inputs}"].asking)  # fmt: skip
    task = "BraTS 2021"
    assert cells["tsf-3"].printed[task] == Printed(28.8, 0.887, lpips=8.89)
    assert cells_of("tsf-map", 2)["tsf-2"].printed[task] == Printed(28.3, above=18.8, below=28.8)
    assert sum(bool(cell.printed) for cell in cells.values()) == 15
    alone = TABLES["tsf-inputs"].alone
    assert {name.rsplit("-", 1)[0] for name in alone} == {
        "resvit", "diamondgan", "hi-net", "mmgsn-net",
    }  # fmt: skip
    best = max(alone.values(), key=lambda numbers: numbers[task].psnr)
    assert best[task] == Printed(28.3, 0.882, lpips=9.87)


@pytest.mark.parametrize("dim", [2, 3])
def test_labels_out_of_place_are_the_same_for_all_who_learn_from_them(dim):
    values, config = base(dim)
    cells = cells_of("fgdl-misalign", dim, Choices("t2f", "uniform_box"))
    rows = ("l1", "pix2pix", "agi-net", "fgdl-uncorrected", "fgdl")
    levels = {"none": 0.0, "low": 2.0, "mid": 4.0, "high": 8.0}
    assert list(cells) == [f"{row}-{level}" for level in levels for row in rows]
    for name, cell in cells.items():
        row, level = name.rsplit("-", 1)
        assert (cell.series, cell.level) == (row, levels[level])
        trained = configure(values, cell.overrides)
        assert configure(values, cell.overrides, cell.testing) == trained
        assert not trained.misalign.tested  # nothing moves in validation or test
        moved = MisalignConfig("t2f", elastic=cell.level, draw="uniform_box", when="train")
        assert trained.misalign == (moved if cell.level else MisalignConfig())
        assert (trained.model.name == "agi-net") == (row == "agi-net")
        against = {"l1": "", "fgdl": "fgdl-uncorrected"}.get(row, "l1")
        assert cell.against == (against and f"{against}-{level}")
    with_, without = (
        identity_of(configure(values, cells[name].overrides))
        for name in ("fgdl-high", "fgdl-uncorrected-high")
    )
    assert {**with_, "train.fgdl.correct": False} == without
    mean, longest = lengths(moved, dim)  # of the strongest
    told = TABLES["fgdl-misalign"].head(config, Choices("t2f", "uniform_box"))
    assert told.endswith(f"high {mean:.1f} and {longest:.1f}")
    assert "labels of t2f displaced by, in voxels on average and at most: low" in told


@pytest.mark.parametrize(("dim", "ratio"), [(2, (1, 4, 4)), (3, (4, 1, 1))])
def test_what_restores_is_taken_apart_at_every_ratio_that_the_widths_allow(dim, ratio):
    values, _ = base(dim)
    cells = cells_of("fgdl-ratio", dim)
    parts = ("no-distinction", "no-modulation", "no-alignment", "no-critic")
    names = [f"{row}-{by}" for by in (2, 4) for row in ("linear", "input", "sr", *parts)]
    assert list(cells) == [*names, "synthesis-inf"]
    runs = {name: configure(values, cell.overrides) for name, cell in cells.items()}
    known = {name: identity_of(run) for name, run in runs.items()}
    assert runs["sr-4"].task.poor == ("t2f",)
    assert runs["sr-4"].degrade.ratio == ratio
    assert runs["synthesis-inf"].task.poor == ()
    assert known["linear-4"] == known["sr-4"]  # it costs no training
    assert cells["linear-4"].asking == Question(way="interpolated")
    assert runs["input-4"].task == runs["sr-4"].task  # the same is seen and made
    assert (runs["input-4"].train.framework, cells["sr-4"].against) == ("l1", "input-4")
    alone = {
        "no-distinction": ("distinction", "none"), "no-modulation": ("modulate", False),
        "no-alignment": ("align", "none"), "no-critic": ("adversarial_weight", 0),
    }  # fmt: skip
    for part, (key, value) in alone.items():
        assert known[f"{part}-4"] == {**known["sr-4"], f"train.fgdl.{key}": value}
        assert cells[f"{part}-4"].against == "sr-4"
    # 300 of 400 steps are 150 of each stage's 200.
    assert runs["sr-4"].train.options.adversarial_start == 150
    assert runs["synthesis-inf"].train.options.adversarial_start == 300
    assert list(cells_of("fgdl-ratio", "cpu-2d"))[-2] == "no-critic-8"  # four widths
    two = configure(values, {"targets": ["t1c", "t2f"], "sources": ["t1n", "t2w"]})
    with pytest.raises(InputError, match="restores one sequence; give one --target, not t1c, t2f"):
        TABLES["fgdl-ratio"].cells(two, MOVE)


def test_the_same_experiment_in_two_tables_is_one_run():
    values, _ = base(3)
    same = {
        "components": "cagr", "groups": "n4", "stages": "3-body", "convolutions": "cagr-aligned",
        "translation": "agi-net-3", "frameworks": "pix2pix-agi-net",
    }  # fmt: skip
    runs = [configure(values, cells_of(table, 3)[name].overrides) for table, name in same.items()]
    assert len({repr(sorted(identity_of(one).items())) for one in runs}) == 1


def test_a_table_of_ones_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'title = "Attention"\nbaseline = "plain"\nnotes = ["n"]\n'
        '[cells.open]\nmodel.attn_init = "open"\n[cells.plain]\nmodel.name = "agi-net"\n'
    )
    name, table = find_table(str(path))
    values, config = base(3)
    cells, _ = choose_cells(table, config, MOVE)
    assert (name, table.title) == ("mine", "Attention")
    assert [(cell.name, cell.against) for cell in cells] == [("plain", ""), ("open", "plain")]
    assert configure(values, cells[1].overrides).model.attn_init == "open"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('title = "x"\n', "expected title, baseline and"),
        ('baseline = "b"\n[cells.a]\nmodel.groups = 2\n', "of which baseline is one"),
        ('baseline = "a"\nclels = 1\n[cells.a]\nmodel.groups = 2\n', "clels"),
        ('baseline = "a"\n[cells]\na = 3\n', "expected title"),
        ("= 3", "cannot read the recipe"),
    ],
)
def test_a_bad_table_is_refused(tmp_path, text, message):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        find_table(str(path))
    with pytest.raises(InputError, match="unknown table 'bad'; known: components, groups"):
        find_table("bad")


def test_a_budget_scales_what_is_counted_in_steps():
    values, _ = base(3)
    assert values["train"]["steps"] == 400
    short = with_budget(values, 100, [])
    assert short["train"]["steps"] == 100
    assert short["train"]["pix2pix"]["adversarial_start"] == 75
    assert short["train"]["warmup"] == 5
    assert short["train"]["validate_every"] == 100
    assert values["train"]["pix2pix"]["adversarial_start"] == 300
    kept = with_budget(values, 100, ["train.warmup", "train.adversarial_start"])
    assert kept["train"]["warmup"] == 20
    assert kept["train"]["pix2pix"]["adversarial_start"] == 300


def test_identity_forgets_what_has_no_effect():
    values, config = base(3)
    for silent in ("train.threads", "train.pgan.l1_weight", "train.validate_every"):
        assert identity_of(configure(values, {silent: 7})) == identity_of(config)
    for loud in ("train.seed", "train.steps", "train.pix2pix.l1_weight"):
        assert identity_of(configure(values, {loud: 7})) != identity_of(config)
