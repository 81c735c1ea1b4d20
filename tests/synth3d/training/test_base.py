"""A training whose network corrects a voxel-wise regression (``model.base``)."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from synth3d.errors import InputError
from synth3d.models import Corrected
from synth3d.settings import parse
from synth3d.training import RunConfig, build_framework, load_run, train_run
from synth3d.training.loop import Trainer
from synth3d.training.run_folder import read_log

SMALL = (
    "model.widths=[4,8]", "model.blocks=1", "model.groups=2", "model.base=true",
    "model.residual_init=zero", "data.patch=[16,16,16]", "data.overlap=[4,4,4]",
    "data.validation_cases=1", "data.vary=0.1", "train.checkpoint_every=2", "train.average=0.9",
    "train.learning_rate=1e-4",
)  # fmt: skip


@pytest.fixture(scope="module")
def request_of(small_requests):
    make = small_requests("phantom", SMALL)
    return lambda name, **fields: make(name, model="resunet", framework="l1", **fields)


@pytest.fixture(scope="module")
def finished(request_of):
    return train_run(request_of("straight"))


def test_the_regression_is_kept_with_the_weights_and_is_most_of_the_picture(finished):
    kept = load_file(finished / "weights.safetensors")["coefficients"]
    assert kept.shape == (1, 10)
    generator = load_run(finished).framework.generator
    assert isinstance(generator, Corrected)
    torch.testing.assert_close(generator.coefficients, kept, rtol=0, atol=0)
    assert float(generator.coefficients.sum()) == pytest.approx(0.5, abs=2)
    # All of healthy tissue lies about 1/2 of the scale, and the first step knows it.
    assert read_log(finished / "log.jsonl")[0]["loss"]["l1"] < 100 * 0.2


def test_killed_and_gone_on_it_ends_with_the_same_weights(request_of, finished, monkeypatch):
    real = Trainer.advance

    def advance(trainer, batch):
        if trainer.step >= 3:
            raise KeyboardInterrupt
        return real(trainer, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "advance", advance)
        with pytest.raises(KeyboardInterrupt):
            train_run(request_of("killed"))
    run = train_run(request_of("killed"))
    assert run is not None
    expected, found = (load_file(each / "weights.safetensors") for each in (finished, run))
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


def test_where_there_is_no_one_regression_it_is_refused():
    def build(**changes):
        config = {"model": {"name": "resunet", "widths": [4, 8], "groups": 2, "base": True}}
        return build_framework(parse(RunConfig, config | changes, ""), training=False)

    for framework in ("l1", "pix2pix"):
        assert isinstance(build(train={"framework": framework}).generator, Corrected)
    with pytest.raises(InputError, match=r"no meaning under ddpm; able: l1, pix2pix"):
        build(train={"framework": "ddpm"})
    four = ["t1n", "t1c", "t2w", "t2f"]
    with pytest.raises(InputError, match="regression of its own"):
        build(mode="any", sources=four, targets=four, train={"framework": "l1"})
