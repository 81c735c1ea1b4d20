"""``synth3d ablate shift-probe``: what rolling could do, what routing can see, and the table."""

import json

import numpy as np
import pytest
import torch

from synth3d.cli import main
from synth3d.experiments.probe import learning, probe_shift, report, run
from synth3d.experiments.probe.learning import Settings, correlation, even_shifts, learn, slope
from synth3d.experiments.probe.networks import ROWS, Probed
from synth3d.models import routed

CPU = torch.device("cpu")
TINY = Settings(steps=8, batch=4, side=32)


def probed(name: str) -> Probed:
    torch.manual_seed(0)
    return Probed(ROWS[name])


def one_rolled(network: Probed):
    (place,) = routed(network).values()
    return place


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(learning, "TEST_SLICES", 4)
    monkeypatch.setattr(learning, "TRACED_SLICES", 16)


@pytest.mark.parametrize(
    ("name", "shift", "undone"),
    [
        ("side7-told", (3, -2), True),
        ("side7-told", (-3, 3), True),
        ("side3-told", (1, -1), True),
        ("side3-told", (2, 0), False),  # read as -1
        ("side3-told", (0, 3), False),  # read as 0: three taps have gone round
    ],
)
def test_a_kernel_rolled_by_the_shift_reads_a_moved_source_as_if_in_its_place(name, shift, undone):
    """Up to (side - 1) / 2 pixels, and only in the groups of the moved source."""
    network = probed(name)
    place, still = one_rolled(network), torch.rand(1, 16, 32, 32)
    middle = ROWS[name].side // 2
    with torch.no_grad():
        place.conv.weight.zero_()
        place.conv.weight[:, :, middle, middle] = torch.eye(16)
    moved = still.clone()
    moved[:, 8:] = still[:, 8:].roll(shift, (2, 3))
    network.truth.shift = torch.tensor([shift])
    y = place.conv(moved, place.routing.offsets(torch.zeros(1, 16)), torch.ones(1, 4))
    inner = (..., slice(4, -4), slice(4, -4))
    assert torch.allclose(y[:, :8], still[:, :8], atol=1e-6)
    assert torch.allclose(y[:, 8:][inner], still[:, 8:][inner], atol=1e-6) == undone


@pytest.mark.parametrize(("name", "sees"), [("side7", False), ("side7-joint", True)])
def test_whether_a_convolution_of_the_routing_compares_the_sources(name, sees):
    """Where each group is convolved alone, they meet in the normalisation over channels only."""
    network = probed(name)
    place = one_rolled(network)
    features, other = torch.rand(1, 16, 32, 32), torch.rand(1, 8, 32, 32)
    replaced = torch.cat([other, features[:, 8:]], 1)
    unit = place.routing.unit1[0]
    assert torch.allclose(unit(features)[:, 8:], unit(replaced)[:, 8:]) != sees


def test_a_large_kernel_starts_as_the_small_one_in_its_middle():
    place = one_rolled(probed("side7"))
    kernel = place.conv.weight.detach()
    assert kernel.shape[2:] == (7, 7)
    assert kernel[:, :, 2:5, 2:5].abs().min() > 0
    assert kernel.abs().sum() == kernel[:, :, 2:5, 2:5].abs().sum()


@pytest.mark.parametrize("name", ROWS)
def test_every_row_makes_a_picture_says_its_offsets_and_learns(name):
    network = probed(name)
    with torch.no_grad():  # gates and heads start where some gradients are 0
        for weight in network.parameters():
            weight.add_(0.01 * torch.randn_like(weight))
    shift = torch.tensor([(1.0, 0.5), (-2.0, 3.0)])
    made, offsets = network(torch.rand(2, 2, 32, 32), shift)
    assert made.shape == (2, 1, 32, 32)
    assert bool(offsets.shape[1]) == (ROWS[name].model != "resunet")
    loss = made.square().mean()
    if ROWS[name].taught:
        loss = loss + network.error_of_offsets(shift)
    loss.backward()
    silent = {key for key, weight in network.named_parameters() if weight.grad is None}
    assert not silent


def test_a_network_that_is_told_rolls_by_a_linear_map_of_the_truth():
    network = probed("agi-net-told")
    shift = torch.tensor([(1.0, -2.0)])
    assert not network(torch.rand(1, 2, 32, 32), shift)[1].any()
    for place in routed(network).values():
        place.routing.offsets.weight.data.fill_(0.5)
    assert torch.allclose(network(torch.rand(1, 2, 32, 32), shift)[1], torch.tensor(-0.5))


def test_what_a_row_is_shown(few):
    """Aligned is not moved, and blank does not depend on the moved source."""
    shift = np.full((4, 2), 2.0)
    for name, moved in (("aligned", 0), ("resunet", 2), ("blank", 2)):
        show = learning._Show(probed(name), TINY, CPU)
        assert (show(np.random.default_rng(0), shift)[3] == moved).all()
    made = [show(np.random.default_rng(0), by * shift)[0] for by in (0, 1)]
    assert torch.equal(*made)


def test_shifts_are_spread_over_all_lengths_and_ways():
    shift = even_shifts(np.random.default_rng(0), 4000, 3.0)
    length = np.hypot(*shift.T)
    assert length.max() <= 3
    assert np.allclose(np.quantile(length, (0.25, 0.5, 0.75)), (0.75, 1.5, 2.25), atol=0.1)
    assert np.abs(shift.mean(0)).max() < 0.1


def test_the_correlation_of_offsets_with_the_truth():
    rng = np.random.default_rng(0)
    shift = rng.normal(size=(256, 2))
    linear = shift @ rng.normal(size=(2, 6)) + 1
    assert correlation(linear, shift) == pytest.approx(1)
    noisy = shift + rng.normal(size=(256, 2))
    assert correlation(noisy, shift) == pytest.approx(0.71, abs=0.1)
    assert abs(correlation(rng.normal(size=(256, 40)), shift)) < 0.3  # fitted on others
    assert correlation(shift[:, :1], np.stack([shift[:, 0], shift[:, 0]], 1)) == pytest.approx(1)
    assert correlation(np.ones((256, 4)), shift) == 0
    assert correlation(np.zeros((256, 0)), shift) is None


def test_how_far_offsets_follow_the_truth():
    """Of the pair that follows it most, whatever else there is and however well it is told."""
    shift = np.random.default_rng(0).normal(size=(256, 2))
    small, turned = 0.01 * shift, shift[:, ::-1]
    assert slope(np.concatenate([small, -0.5 * shift + 2], 1), shift) == pytest.approx(-0.5)
    assert slope(small, shift) == pytest.approx(0.01)
    assert abs(slope(turned, shift)) < 0.2
    assert slope(np.zeros((256, 2)), shift) == 0
    assert slope(np.zeros((256, 0)), shift) is None


def test_a_training_repeats_itself_and_seeds_differ(few):
    first, again, other = (learn(ROWS["agi-net"], seed, TINY, CPU) for seed in (1, 1, 2))
    assert first["levels"] == again["levels"]
    assert first["levels"] != other["levels"]
    assert list(first["levels"]) == ["0", "0.5", "1", "1.5", "2", "2.5", "3"]
    assert [step for step, _ in first["curve"]] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_the_rate_rises_stays_and_falls():
    settings = Settings(steps=1000)
    rates = [settings.rate_at(step) / settings.rate for step in (1, 50, 600, 800, 1000)]
    assert rates == pytest.approx([0.02, 1, 1, 0.5025, 0.0025])


SMALL = ["--budget", "8", "--set", "side=32", "--set", "batch=4", "--threads", "1"]
WORDS = ["ablate", "shift-probe", *SMALL]


def test_the_probe_as_a_user_meets_it(tmp_path, few, monkeypatch, capsys):
    words = [*WORDS, "--work", str(tmp_path), "--seeds", "2", "--only", "side3-*"]
    assert main([*words, "--dry-run"]) == 0
    assert not list(tmp_path.iterdir())
    assert main(words) == 0
    folder = tmp_path / "ablate" / "shift-probe"
    assert {"table.md", "table.csv", "table.json", "curve.png", "runs"} == {
        path.name for path in folder.iterdir()
    }
    first, told = json.loads((folder / "table.json").read_text())["rows"]
    assert (first["name"], told["name"], told["seeds"]) == ("resunet", "side3-told", [0, 1])
    assert first["all"]["difference"] is None
    assert first["heard"] is None
    assert [told[key]["mean"] for key in ("heard", "slope")] == pytest.approx([1, 1])
    gap = told["all"]["mean"] - first["all"]["mean"]
    assert told["all"]["difference"]["mean"] == pytest.approx(gap)
    before = (folder / "table.md").read_text()
    monkeypatch.setattr(run, "learn", None)
    assert main(words) == 0
    assert (folder / "table.md").read_text() == before
    assert "4 trained before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--data", "cohort"], "draws its own slices and has no --data"),
        (["--workers", "2"], "has no --workers"),
        (["--budget", "10min"], "takes steps"),
        (["--budget", "4"], "steps must be 8 or more"),
        (["--only", "unet"], "no row of shift-probe is called 'unet'"),
        (["--set", "widths=8"], "widths"),
        (["--set", "side=33"], "side must be even, 32 or more"),
    ],
)
def test_what_the_probe_does_not_take_is_refused(tmp_path, capsys, words, says):
    assert main([*WORDS, "--work", str(tmp_path / "work"), *words]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


def test_the_probe_is_listed(capsys):
    assert main(["ablate", "--list"]) == 0
    assert f"shift-probe    {report.TITLE}" in capsys.readouterr().out


def test_a_report_of_nothing(tmp_path):
    assert probe_shift(run.ProbeRequest(tmp_path, report=True)) == 0
    assert "no row has been trained yet" in (tmp_path / "table.md").read_text()
