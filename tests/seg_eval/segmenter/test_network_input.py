"""What goes into the segmenter is in its order and free of nnU-Net's traps."""

import numpy as np
import pytest

from seg_eval.segmenter.network_input import network_input
from synth3d.errors import InputError

NAMES = ("t1n", "t1c", "t2w", "t2f")
SHAPE = (6, 7, 8)


@pytest.fixture
def brain() -> np.ndarray:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[1:5, 1:6, 1:7] = True
    return mask


@pytest.fixture
def channels(brain) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        name: np.where(brain, 100 * index + rng.uniform(1, 50, SHAPE), 0)
        for index, name in enumerate(NAMES)
    }


def test_channels_are_ordered_by_name(channels):
    shuffled = {name: channels[name] for name in ("t2f", "t1n", "t2w", "t1c")}
    stack = network_input(shuffled, NAMES)
    assert stack.shape == (4, *SHAPE)
    assert stack.dtype == np.float32
    for index, name in enumerate(NAMES):
        np.testing.assert_allclose(stack[index], channels[name], rtol=1e-6)


def test_an_absent_channel_is_zeros(channels):
    channels["t2f"] = np.zeros(SHAPE)
    assert not network_input(channels, NAMES)[3].any()


def test_the_callers_arrays_are_left_alone(channels):
    before = {name: x.copy() for name, x in channels.items()}
    network_input(channels, NAMES)[:] = 0
    for name in NAMES:
        np.testing.assert_array_equal(channels[name], before[name])


def test_images_with_air_noise_everywhere_are_taken():
    noisy = np.random.default_rng(0).uniform(1, 2, (4, *SHAPE))
    network_input(dict(zip(NAMES, noisy, strict=True)), NAMES)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda x: np.where(x, x, -1), "t2f has no zero background"),
        (lambda x: np.where(x == x.max(), np.nan, x), "t2f has 1 voxels that are NaN or infinite"),
        (lambda x: np.where(x, x, np.inf), "t2f has 216 voxels that are NaN or infinite"),
        *((lambda x, v=v: np.where(x, v, 0), "t2f is the constant") for v in (0.1, 1, 100, -3)),
        (lambda x: np.ones((6, 7, 9)), r"t2f \(6, 7, 9\)"),
    ],
)
def test_what_nnunet_would_misread_is_refused(channels, change, sentence):
    with pytest.raises(InputError, match=sentence):
        network_input(channels | {"t2f": change(channels["t2f"])}, NAMES)


def test_modalities_that_the_network_does_not_take_are_left_out(channels):
    specialist = network_input(channels, NAMES[:3])
    np.testing.assert_array_equal(specialist, network_input(channels, NAMES)[:3])


def test_lacking_channels_and_empty_cases_are_refused(channels):
    lacking = "takes t1n, t1c, t2w, t2f; it was not given t1c, t2w, t2f"
    with pytest.raises(InputError, match=lacking):
        network_input({"t1n": channels["t1n"]}, NAMES)
    with pytest.raises(InputError, match="zero everywhere"):
        network_input(dict.fromkeys(NAMES, np.zeros(SHAPE)), NAMES)
