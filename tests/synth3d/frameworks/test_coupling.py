"""Coupled to a segmenter: which terms count when, what they see, and whom they teach."""

from dataclasses import replace

import pytest
import torch

from synth3d.data.batch import Batch, head_of, only
from synth3d.errors import InputError
from synth3d.frameworks import FRAMEWORKS, CouplingOptions
from synth3d.frameworks.base import counted, masked_l1
from synth3d.frameworks.coupling import LOOKING, TERMS
from synth3d.losses import standardised
from synth3d.settings import parse, to_plain
from synth3d.training.config import RunConfig, build_framework
from synth3d.training.run_folder import load_state, save_state
from synth3d.training.trainer import Trainer

CPU = torch.device("cpu")
CHANNELS = ["t2w", "t2f", "t1n"]
"""Of the segmenter: another order than the run's sources t1n, t2w and target t2f."""


@pytest.fixture(scope="module")
def exports(write_segmenter, tmp_path_factory):
    """Segmenters of 2-D and 3-D patches."""
    folder = tmp_path_factory.mktemp("exports")
    return {dim: str(write_segmenter(folder / str(dim), dim, channels=CHANNELS)) for dim in (2, 3)}


@pytest.fixture
def make(make_config, exports):
    """A framework with this coupling; ``train`` and others as of ``make_config``."""

    def framework(name="l1", dim=2, train=(), either=False, ratio=None, **options):
        own = {key: options.pop(key) for key in ("pretrain",) if key in options}
        if any(options.get(key) for key in LOOKING):
            options = {"segmenter": exports[dim]} | options
        train = dict(train) | {"coupling": CouplingOptions(**options)}
        own |= {"sources": ("t1n", "t2w", "t2f") if either else ("t1n", "t2w")}
        own |= {"ratio": ratio} if ratio else {}
        return build_framework(make_config(name, dim, train=train, either=either, **own))

    return framework


def with_tumour(batch: Batch) -> Batch:
    """With levels, a region and a label: a square of oedema in the first sample alone."""
    draws = torch.Generator().manual_seed(1)
    count = batch.sources.shape[1] + batch.targets.shape[1]
    levels = torch.rand((len(batch.sources), count, 3), generator=draws) + 0.5
    label = torch.zeros_like(batch.brain, dtype=torch.int8)
    label[0, ..., 6:10, 6:10] = 2
    return replace(batch, levels=levels, region=batch.brain.clone(), label=label)


@pytest.fixture
def batch(make_batch) -> Batch:
    return with_tumour(make_batch())


def terms_of(framework, batch, made, step=0):
    reference = framework.options.l1_weight * masked_l1(made, batch)
    return framework.coupling.terms(made, batch, step, counted(batch), reference)


def random_image(batch, seed=3):
    draws = torch.Generator().manual_seed(seed)
    return torch.rand(batch.targets.shape, generator=draws).requires_grad_()


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("name", sorted(n for n, f in FRAMEWORKS.items() if f.couples))
def test_each_term_is_there_and_the_generator_learns_by_it(name, dim, make, make_batch):
    batch = with_tumour(make_batch(dim))
    for term in TERMS:
        framework = make(name, dim, **{term: 1.0})
        found = framework.generator_loss(batch, 0)
        assert term in found
        found[term].backward()
        assert any(p.grad.abs().max() > 0 for p in framework.generator.parameters())


def test_those_that_can_be_coupled():
    assert {n for n, f in FRAMEWORKS.items() if f.couples} == {"l1", "pix2pix", "tsf", "fgdl"}


@pytest.mark.parametrize("step", [0, 5])
def test_tsf_shows_the_segmenter_the_target_drawn_and_no_other(make, make_batch, step):
    """In Seq2Seq's stage and in the fusion's; a sample that has no pair learns nothing."""
    weights = dict.fromkeys(TERMS, 1.0)
    framework = make("tsf", either=True, train={"steps": 10}, pretrain=0.5, **weights)
    batch, truth = with_tumour(make_batch()), torch.rand(2, 3, 16, 16) + 0.1
    present = torch.tensor([[1, 1, 0], [0, 0, 1]]).bool()
    sources, wanted = only(truth, present), torch.tensor([[0, 0, 1], [1, 1, 0]]).bool()
    how = {"sources": sources, "targets": truth, "present": present, "wanted": wanted}
    batch = replace(with_tumour(replace(batch, **how)), brain=head_of(sources))
    drawn, found = framework.drawn(batch, step), framework.generator_loss(batch, step)
    if step:
        made = framework.synthesize(sources, present, wanted)
    else:
        image = sources[torch.arange(2), drawn.source]
        features = framework.generator.encode(image)
        made = framework.generator.decode(features, drawn.target, image.shape[1:])[:, None]
        made = made.expand(-1, 3, -1, -1)
    one = torch.nn.functional.one_hot(drawn.target, 3).bool()
    alone, reference = replace(batch, wanted=one), torch.zeros(())
    how = step, counted(alone), reference
    expected = framework.coupling.terms(only(made.detach(), one), alone, *how)
    assert {name: found[name].item() for name in TERMS} == pytest.approx(
        {name: expected[name].item() for name in TERMS}, rel=1e-4
    )


def test_fgdl_takes_the_moved_label_and_moves_none_by_what_a_segmenter_says(make, batch):
    framework = make("fgdl", **dict.fromkeys(TERMS, 1.0))
    torch.nn.init.normal_(framework.correction.registration.out.weight, std=0.1)
    labelled, moved = framework.corrected(batch)
    assert moved.abs().max() > 0.01
    found = framework.generator_loss(batch, 0)
    made = framework.synthesize(batch.sources, batch.present, batch.wanted)
    expected = terms_of(framework, labelled, made)
    assert {name: found[name].item() for name in TERMS} == pytest.approx(
        {name: expected[name].item() for name in TERMS}, rel=1e-5
    )
    sum(found[name] for name in TERMS).backward()
    registration = framework.correction.registration.parameters()
    assert not any(p.grad is not None and p.grad.any() for p in registration)


@pytest.mark.parametrize("step", [0, 5])
def test_fgdl_that_restores_is_coupled_in_both_stages(make, make_batch, step):
    """The segmenter sees what is restored in the place of what is poor."""
    framework = make("fgdl", ratio=(1, 1, 2), train={"steps": 10}, label=1.0)
    batch = with_tumour(make_batch(ratio=(1, 1, 2)))
    assert framework.generator_loss(batch, step)["label"] > 0
    made = random_image(batch).detach()
    seen = framework.coupling.shown(made, batch, synthetic=True)[:, CHANNELS.index("t2f")]
    levels = batch.levels[:, 3:]
    assert torch.equal(seen, standardised(made, batch.brain, levels, batch.region)[:, 0])


@pytest.mark.parametrize(
    ("name", "options"), [("tsf", {"pretrain": 0.5}), ("fgdl", {}), ("fgdl", {"ratio": (1, 1, 2)})]
)
def test_others_go_on_to_the_bit_too(name, options, make_config, exports, make_batch, tmp_path):
    """In the middle of what is balanced and of what rests; TSF and a restoring in either stage."""
    coupling = CouplingOptions(
        segmenter=exports[2], balance=True, every=2, start=1, **dict.fromkeys(TERMS, 0.5)
    )
    train = {"steps": 6, "learning_rate": 1e-3, "average": 0.5, "coupling": coupling}
    config = make_config(name, train=train, **options)
    batch = with_tumour(make_batch(ratio=options.get("ratio")))
    straight = Trainer(config, CPU)
    for step in range(6):
        if step in (2, 4):
            save_state(tmp_path / f"{step}.pt", straight.state())
        last = straight.advance(batch)
    assert {*TERMS} & {*last}
    for step in (2, 4):
        again = Trainer(config, CPU)
        again.load(load_state(tmp_path / f"{step}.pt"))
        while again.step < 6:
            again.advance(batch)
        pairs = zip(straight.framework.parameters(), again.framework.parameters(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)


def test_without_a_coupling_nothing_is_there(make, batch):
    framework = make()
    assert framework.coupling is None
    assert set(framework.generator_loss(batch, 0)) == {"l1"}
    assert set(framework.masks(batch, 0)) == {"voxels"}


def test_the_synthetic_channel_stands_among_the_real_ones(make, batch):
    """In the segmenter's order; hidden ones are empty, and a synthetic 0 is no background."""
    framework, made = make(label=1.0), random_image(batch).detach()
    made[..., 8, 8] = 0
    batch = replace(batch, present=torch.tensor([[True, True], [True, False]]))
    seen = framework.coupling.shown(made, batch, synthetic=True)
    images = {"t1n": (batch.sources, 0), "t2w": (batch.sources, 1), "t2f": (made, 0)}
    for channel, name in enumerate(CHANNELS):
        volume, at = images[name]
        place = ("t1n", "t2w", "t2f").index(name)
        there = batch.brain if name == "t2f" else volume[:, at : at + 1] != 0
        levels = batch.levels[:, place : place + 1]
        expected = standardised(volume[:, at : at + 1], there, levels, batch.region)[:, 0]
        if name == "t2w":
            expected = expected * torch.tensor([1, 0]).view(2, 1, 1)
        assert torch.equal(seen[:, channel], expected)


def test_in_mode_any_what_is_wanted_is_synthetic_and_what_is_shown_is_real(make, make_batch):
    draws = torch.Generator().manual_seed(0)
    truth = torch.rand(2, 3, 16, 16, generator=draws) + 0.1
    present = torch.tensor([[1, 0, 0], [0, 1, 0]]).bool()
    wanted = torch.tensor([[0, 1, 0], [1, 0, 1]]).bool()
    sources = only(truth, present)
    batch = with_tumour(Batch(sources, truth, present, wanted, head_of(sources)))
    framework, made = make(either=True, answer=1.0), torch.full_like(truth, 0.25)
    seen = framework.coupling.shown(made, batch, synthetic=True)
    order = [("t1n", "t2w", "t2f").index(name) for name in CHANNELS]
    for sample, kinds in enumerate(("rs-", "srs")):
        for channel, at in enumerate(order):
            image, levels = {"r": truth, "s": made}.get(kinds[at]), batch.levels[:, at:][:, :1]
            if kinds[at] == "r":
                levels = batch.levels[:, at : at + 1]
            elif kinds[at] == "s":
                levels = batch.levels[:, 3 + at : 4 + at]
            if image is None:
                assert not seen[sample, channel].any()
                continue
            one = torch.ones_like(batch.brain)
            expected = standardised(image[:, at : at + 1], one, levels, batch.region)
            assert torch.equal(seen[sample, channel], expected[sample, 0])


def test_the_real_image_is_right_by_features_and_answer(make, batch):
    """Nothing is better than it: both terms have no slope there, and features are no error."""
    framework = make(features=1.0, answer=1.0)
    real = batch.targets.clone().requires_grad_()
    found = terms_of(framework, batch, real)
    assert found["features"].item() == 0
    found["answer"].backward()
    assert real.grad.abs().max() < 1e-7
    other = random_image(batch)
    worse = terms_of(framework, batch, other)
    assert worse["features"] > 0
    assert worse["answer"] > found["answer"]


def test_a_gradient_reaches_the_synthetic_brain_and_nothing_else(make, batch):
    framework, made = make(features=1.0, label=1.0, answer=1.0), random_image(batch)
    targets = batch.targets.clone().requires_grad_()
    sum(terms_of(framework, replace(batch, targets=targets), made).values()).backward()
    assert targets.grad is None
    assert made.grad[~batch.brain].abs().max() == 0
    assert made.grad[batch.brain].abs().max() > 0
    (segmenter,) = framework.coupling._segmenter
    assert all(p.grad is None and not p.requires_grad for p in segmenter.parameters())


def test_the_gradient_is_that_of_finite_differences(make, batch):
    """Along one direction."""
    framework, made = make(features=1.0, label=1.0, answer=1.0), random_image(batch)
    step = 1e-3 * torch.sign(random_image(batch, 5).detach() - 0.5)

    def total(image):
        return float(sum(terms_of(framework, batch, image).values()).detach())

    sum(terms_of(framework, batch, made).values()).backward()
    with torch.no_grad():
        slope = total(made + step) - total(made - step)
    assert slope == pytest.approx(2 * (made.grad * step).sum().item(), rel=0.1)


def test_without_a_label_a_sample_has_no_say(make, batch):
    framework, made = make(label=1.0), random_image(batch)
    alone = terms_of(framework, batch, made)["label"]
    label = batch.label.clone()
    label[1] = -1
    first = terms_of(framework, replace(batch, label=label), made)["label"]
    second = 2 * alone - first
    label = torch.full_like(batch.label, -1)
    assert terms_of(framework, replace(batch, label=label), made)["label"] == 0
    label[1] = batch.label[1]
    found = terms_of(framework, replace(batch, label=label), made)["label"]
    assert found.item() == pytest.approx(second.item(), rel=1e-5)


def test_tumour_and_boundary_by_hand(make, batch):
    """An error of 1 in the tumour, 16 voxels; of 4 in the ring of 28 + 12 voxels beside a border
    whose inner half is in the tumour.
    """
    framework = make(tumour=2.0, boundary=3.0)
    made = batch.targets + (batch.label > 0)
    found = terms_of(framework, batch, made)
    assert found["tumour"].item() == pytest.approx(2.0)
    inner, outer = 4**2 - 2**2, 6**2 - 4**2
    assert found["boundary"].item() == pytest.approx(3.0 * inner / (inner + outer))


def test_targets_that_are_not_wanted_do_not_count(make, batch):
    framework = make(tumour=1.0, boundary=1.0, answer=1.0)
    batch = replace(batch, wanted=torch.zeros_like(batch.wanted))
    found = terms_of(framework, batch, random_image(batch))
    assert {name: term.item() for name, term in found.items()} == dict.fromkeys(found, 0)


def test_when_terms_count(make, batch):
    """From ``start``; those by the segmenter at each ``every``-th step, as much in the mean."""
    made = random_image(batch)
    often, rare = make(label=1.0, tumour=1.0), make(label=1.0, tumour=1.0, every=3, start=4)
    expected = {name: term.item() for name, term in terms_of(often, batch, made).items()}
    found = [terms_of(rare, batch, made, step) for step in range(10)]
    assert [sorted(terms) for terms in found] == [[]] * 4 + [
        ["label", "tumour"], ["tumour"], ["tumour"], ["label", "tumour"], ["tumour"], ["tumour"]
    ]  # fmt: skip
    for name in expected:
        mean = sum(terms[name].item() for terms in found[4:] if name in terms) / 6
        assert mean == pytest.approx(expected[name], rel=1e-5)


def test_balanced_terms_pull_as_hard_as_l1(make, batch):
    """By the norm of the gradient on the image; the first step measures, and pulls not at all."""
    weights = {"features": 0.5, "label": 1.0, "answer": 2.0, "tumour": 1.0}
    framework, made = make(balance=True, **weights), random_image(batch)
    assert all(term.item() == 0 for term in terms_of(framework, batch, made).values())
    framework.settle(lambda sums: None)
    found = terms_of(framework, batch, made, 1)
    reference = framework.options.l1_weight * masked_l1(made, batch)
    (slope,) = torch.autograd.grad(reference, made)
    for name, term in found.items():
        (own,) = torch.autograd.grad(term, made, retain_graph=True)
        assert own.norm().item() == pytest.approx(weights[name] * slope.norm().item(), rel=1e-3)
    plain = make(**weights)
    (direction,) = torch.autograd.grad(terms_of(plain, batch, made)["label"], made)
    (own,) = torch.autograd.grad(found["label"], made)
    assert torch.cosine_similarity(own.flatten(), direction.flatten(), 0).item() > 0.9999


def test_a_balance_remembers_and_rests(make, batch):
    """Means over steps are kept in the state; what did not count at a step stays as it was."""
    framework, made = make(balance=True, label=1.0), random_image(batch)
    terms_of(framework, batch, made)
    framework.settle(lambda sums: None)
    before = framework.coupling.squares.clone()
    assert before[0] > 0
    framework.settle(lambda sums: None)
    assert torch.equal(framework.coupling.squares, before)
    assert torch.equal(framework.state_dict()["coupling.squares"], before)


def test_the_segmenter_is_no_part_of_the_state_and_never_learns(make_config, exports, batch):
    coupling = CouplingOptions(segmenter=exports[2], features=1.0, label=1.0)
    trainer = Trainer(make_config("l1", train={"coupling": coupling}), CPU)
    (segmenter,) = trainer.framework.coupling._segmenter
    before = [p.clone() for p in segmenter.parameters()]
    assert not any("coupling" in name for name in trainer.state()["framework"])
    for _ in range(2):
        found = trainer.advance(batch)
    assert {"l1", "features", "label"} == set(found)
    assert all(torch.equal(a, b) for a, b in zip(segmenter.parameters(), before, strict=True))
    assert not segmenter.training


def test_in_half_precision_the_segmenter_sees_the_same(make_config, exports, batch):
    """Of the image the last bits differ; nothing overflows."""
    coupling = CouplingOptions(segmenter=exports[2], features=1.0, label=1.0, answer=1.0)
    found = {}
    for precision in ("fp32", "bf16"):
        train = {"coupling": coupling, "precision": precision}
        trainer = Trainer(make_config("l1", train=train), CPU)
        found[precision] = trainer.advance(batch)
        assert all(p.isfinite().all() for p in trainer.framework.parameters())
    assert found["bf16"] == pytest.approx(found["fp32"], rel=0.05)


def test_the_segmenter_computes_in_full_precision_whatever_is_around_it(make, batch):
    framework, made = make(features=1.0, label=1.0, answer=1.0), random_image(batch)
    expected = terms_of(framework, batch, made)
    with torch.autocast("cpu", torch.bfloat16):
        found = terms_of(framework, batch, made)
    assert {name: term.item() for name, term in found.items()} == {
        name: term.item() for name, term in expected.items()
    }


def test_for_synthesis_no_export_is_needed(make_config, exports):
    coupling = CouplingOptions(segmenter="nowhere", label=1.0)
    config = make_config("l1", train={"coupling": coupling})
    assert build_framework(config, training=False).coupling is None
    with pytest.raises(InputError, match="no exported segmenter"):
        build_framework(config)


def test_options_survive_a_recipe(exports):
    train = {"framework": "l1", "coupling": {"segmenter": exports[3], "label": 0.1, "every": 2}}
    config = parse(RunConfig, {"train": train})
    assert parse(RunConfig, to_plain(config)) == config
    assert config.train.coupling.label == 0.1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"label": 0.1}, "give train.coupling.segmenter"),
        ({"segmenter": "x", "tumour": 1.0}, "no effect without a weight"),
        ({"tumour": -1.0}, "train.coupling.tumour"),
        ({"tumour": float("nan")}, "train.coupling.tumour"),
        ({"tumour": 1.0, "every": 0}, "train.coupling.every"),
        ({"tumour": 1.0, "start": -1}, "train.coupling.start"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, said):
    with pytest.raises(InputError, match=said):
        CouplingOptions(**options)


def test_a_framework_that_has_no_such_terms_says_so(make):
    with pytest.raises(InputError, match="no effect under train.framework=ddpm"):
        make("ddpm", tumour=1.0)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"channels": ["t1n", "t1c", "t2f"]}, "this run has no t1c"),
        ({"channels": ["t1n", "t2w"]}, "see nothing of what this run makes"),
        ({"dim": 3}, "sees 3-D patches"),
        ({"shape": {"strides": [[1, 1], [16, 16]]}}, "too small"),
    ],
)
def test_a_segmenter_that_does_not_fit_is_refused(said, reason, make, write_segmenter, tmp_path):
    said = {"dim": 2, "channels": CHANNELS} | said
    export = write_segmenter(tmp_path / "export", **said)
    with pytest.raises(InputError, match=reason) as error:
        make(label=1.0, segmenter=str(export))
    assert "\n" not in str(error.value)


def test_a_segmenter_that_is_another_now_is_refused(make, exports):
    with pytest.raises(InputError, match="exported anew"):
        make(label=1.0, segmenter_sha256="f" * 64)


@pytest.mark.parametrize("change", [{"intensity": "paper"}, {"plane": "sagittal"}])
def test_images_that_it_could_not_see_right_are_refused(change, exports):
    train = {"framework": "l1", "coupling": {"segmenter": exports[2], "label": 0.1}}
    values = {"dim": 2, "train": train, "data": {"patch": [16, 16], "overlap": [4, 4]}}
    values["data"] |= change
    values["model"] = {"widths": [4, 8], "groups": 2}
    with pytest.raises(InputError, match="coupled"):
        parse(RunConfig, values)


def test_a_sequence_that_is_degraded_as_it_is_drawn_is_refused(exports):
    """Its levels are not those of its file; degraded in testing alone it teaches as it is."""
    train = {"framework": "l1", "coupling": {"segmenter": exports[3], "label": 0.1}}
    degrade = {"source": "t2w", "ratio": [1, 1, 4]}
    with pytest.raises(InputError, match="coupled segmenter"):
        parse(RunConfig, {"train": train, "degrade": degrade})
    parse(RunConfig, {"train": train, "degrade": degrade | {"when": "test_only"}})
