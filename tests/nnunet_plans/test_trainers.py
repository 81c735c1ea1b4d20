"""The trainer's own parts; whole trainings are in tests/seg_eval/test_nnunet.py."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.filterwarnings("ignore")  # third parties warn while being imported


@pytest.fixture
def trainers():
    pytest.importorskip("nnunetv2")
    from nnunet_plans import trainers

    return trainers


def test_channel_dropout_zeroes_one_channel_of_a_patch_or_none(trainers):
    torch.manual_seed(0)
    patches = torch.ones(200, 4, 2, 2, 2)
    trainers.drop_channels(patches, 0.5)
    lost = (patches.flatten(2) == 0).all(dim=2).sum(dim=1)
    assert set(lost.tolist()) == {0, 1}
    assert 70 < int(lost.sum()) < 130
    assert (patches[lost == 0] == 1).all()


def test_a_typo_in_the_schedule_is_refused(trainers):
    with pytest.raises(ValueError, match="unknown key 'epoch'"):
        trainers.ScheduledTrainer.apply_schedule(SimpleNamespace(), {"epoch": 3})


def test_the_random_state_of_an_epoch_depends_on_seed_and_epoch_alone(trainers):
    def draw(seed: int, epoch: int, rank: int = 0) -> tuple[float, float]:
        trainer = SimpleNamespace(seed=seed, local_rank=rank)
        trainers.ScheduledTrainer._seed_random(trainer, epoch)
        return float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002

    assert draw(0, 3) == draw(0, 3)
    assert len({draw(0, 3), draw(0, 4), draw(1, 3)}) == 3
    assert draw(0, 3, rank=1) != draw(0, 3), "two GPUs of one training draw the same patches"


@pytest.fixture
def transforms(trainers):
    def build(augmentation: float) -> list:
        return trainers.ScheduledTrainer.get_training_transforms(
            SimpleNamespace(augmentation=augmentation),
            *((32, 32, 32), (-0.5, 0.5), None, (0, 1, 2), False),
            regions=[(1, 2, 3)],
        ).transforms

    return build


def test_the_blur_does_not_choose_its_algorithm_by_a_stopwatch(transforms):
    steps = [getattr(step, "transform", step) for step in transforms(1.0)]
    timed = [step for step in steps if hasattr(step, "benchmark")]
    assert timed
    assert not any(step.benchmark for step in timed)


def test_augmentation_is_scaled_and_mirroring_stays(transforms):
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import MirrorTransform, nnUNetTrainer

    stock = nnUNetTrainer.get_training_transforms((32,) * 3, (-0.5, 0.5), None, (0, 1, 2), False)
    half, none = transforms(0.5), transforms(0.0)
    assert half[0].p_rotation == stock.transforms[0].p_rotation / 2
    assert half[1].apply_probability == stock.transforms[1].apply_probability / 2
    assert {getattr(step, "apply_probability", 0) for step in none} == {0}
    mirror = next(step for step in none if isinstance(step, MirrorTransform))
    assert mirror.allowed_axes == (0, 1, 2)


def test_nnunet_finds_the_trainer_through_its_own_variable(trainers, monkeypatch):
    from pathlib import Path

    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    monkeypatch.setenv("nnUNet_extTrainer", str(Path(trainers.__file__).parent))
    found = recursive_find_trainer_class_by_name("ScheduledTrainer")
    assert found.__name__ == "ScheduledTrainer"
    assert found.__module__ == "trainers"
