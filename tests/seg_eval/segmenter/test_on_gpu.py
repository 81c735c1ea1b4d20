"""nnU-Net's work is done with cuDNN tuned for its device, on which a segmenter says the same."""

import contextlib

import pytest
import torch

from seg_eval.segmenter import nnunet
from seg_eval.segmenter.nnunet import Segmenter, train_segmenter

pytestmark = pytest.mark.filterwarnings("ignore")  # third parties warn while being imported


def test_a_segmenter_labels_alike_on_any_device(frozen, cases, volumes_of, device):
    model = train_segmenter(frozen, device="cpu")
    channels = volumes_of(cases[4])
    found, expected = (
        Segmenter(model, device=str(where)).predict(channels, (1, 1, 1))
        for where in (device, "cpu")
    )
    # half precision on a GPU: rounding the CPU's like it moved 0.05 % of these labels
    assert (found == expected).mean() >= (0.99 if device.type == "cuda" else 1)
    assert torch.backends.cudnn.benchmark is False


def test_cudnn_is_tuned_while_nnunet_trains_loads_and_predicts(
    frozen, cases, volumes_of, monkeypatch
):
    """Told by what nnU-Net does meanwhile: it convolves, and loads a checkpoint."""
    inside: list[str] = []
    done: set[tuple[str, ...]] = set()

    @contextlib.contextmanager
    def tuned(device):
        inside.append(str(device))
        yield
        inside.clear()

    def watched(name, real):
        def call(*args, **how):
            done.add((name, *inside))
            return real(*args, **how)

        return call

    monkeypatch.setattr(nnunet, "tuned", tuned)
    for place, name in ((torch, "load"), (torch.nn.functional, "conv3d")):
        monkeypatch.setattr(place, name, watched(name, getattr(place, name)))
    model = train_segmenter(frozen, seed=77, device="cpu")  # no other test trains it
    assert done == {("conv3d", "cpu")}
    done.clear()
    segmenter = Segmenter(model, device="cpu")
    assert done == {("load", "cpu")}
    done.clear()
    segmenter.predict(volumes_of(cases[4]), (1, 1, 1))
    assert done == {("conv3d", "cpu")}
