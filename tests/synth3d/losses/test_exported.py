"""An export is read as plain values, and what is not what it says is refused in a sentence."""

import json
import pickle
import shutil

import pytest
from safetensors.torch import load_file, save_file

from synth3d.errors import InputError
from synth3d.files import sha256
from synth3d.losses import DESCRIPTION, WEIGHTS, load_segmenter, read_exported


@pytest.fixture(scope="module")
def original(write_segmenter, tmp_path_factory):
    return write_segmenter(tmp_path_factory.mktemp("export") / "segmenter")


@pytest.fixture
def export(original, tmp_path):
    return shutil.copytree(original, tmp_path / "export")


def test_what_is_read_never_learns(export):
    segmenter = load_segmenter(export)
    segmenter.train()
    assert not segmenter.training
    assert not any(parameter.requires_grad for parameter in segmenter.parameters())
    assert not any(module.training for module in segmenter.modules())


def test_a_folder_without_an_export_says_how_to_make_one(tmp_path):
    with pytest.raises(InputError, match="seg_eval export-segmenter"):
        read_exported(tmp_path)


def test_no_pickle_is_read(export):
    """Nor anything else that is not the file whose hash was written down."""

    class Bomb:
        def __reduce__(self):
            return pytest.fail, ("a pickle was opened",)

    (export / WEIGHTS).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match="SHA-256 differs"):
        load_segmenter(export)
    said = json.loads((export / DESCRIPTION).read_text())
    said["weights_sha256"] = sha256(export / WEIGHTS)
    (export / DESCRIPTION).write_text(json.dumps(said))
    with pytest.raises(InputError, match="are damaged"):
        load_segmenter(export)


@pytest.mark.parametrize("cut", [0, 100, -1])
def test_weights_cut_off_are_refused(cut, export):
    content = (export / WEIGHTS).read_bytes()
    (export / WEIGHTS).write_bytes(content[:cut])
    with pytest.raises(InputError, match="SHA-256 differs"):
        load_segmenter(export)
    (export / WEIGHTS).unlink()
    with pytest.raises(InputError, match="cannot read"):
        load_segmenter(export)


@pytest.mark.parametrize("change", ["lacking", "further", "shape"])
def test_weights_of_another_network_are_refused(change, export):
    """Strictly: nothing that is there is left unread, and nothing keeps a random weight."""
    state = load_file(export / WEIGHTS)
    name = sorted(state)[0]
    if change == "lacking":
        state.pop(name)
    elif change == "further":
        state["more"] = state[name].clone()
    else:
        state[name] = state[name].flatten()[:1].clone()
    save_file(state, export / WEIGHTS)
    said = json.loads((export / DESCRIPTION).read_text())
    said["weights_sha256"] = sha256(export / WEIGHTS)
    (export / DESCRIPTION).write_text(json.dumps(said))
    with pytest.raises(InputError, match="of another network") as error:
        load_segmenter(export)
    assert "\n" not in str(error.value)


WRONG = {
    "a class of the attacker's": {"architecture": {"network": "os.system"}},
    "an activation by code": {"architecture": {"activation": "__import__('os')"}},
    "a layer of 10^9": {"architecture": {"features": [10**9, 4]}},
    "a stage too many": {"architecture": {"blocks": [1, 1, 1]}},
    "sides that do not agree": {"architecture": {"strides": [[1, 1], [2, 2]]}},
    "a scheme for CT": {"normalisation": ["CTNormalization"] * 4},
    "a head of nothing": {"heads": [[1, 2, 3], [], [3]]},
    "a class 4": {"heads": [[1, 2, 4], [1, 4], [4]]},
    "a softmax without oedema": {"regions": False, "heads": [[0], [1], [3]]},
    "a channel twice": {"channels": ["t1n", "t1n", "t2w", "t2f"]},
    "2-D spacing": {"spacing_mm": [1.0, 1.0]},
    "spacing 0": {"spacing_mm": [1.0, 0.0, 1.0]},
    "format 2": {"format": 2},
    "a key of its own": {"code": "print()"},
    "text for a number": {"architecture": {"epsilon": "1e-5"}},
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_a_description_that_says_anything_else_is_refused(change, export):
    said = json.loads((export / DESCRIPTION).read_text())
    for key, value in change.items():
        said[key] = said[key] | value if isinstance(value, dict) else value
    (export / DESCRIPTION).write_text(json.dumps(said))
    with pytest.raises(InputError, match="export the segmenter anew") as error:
        load_segmenter(export)
    assert "\n" not in str(error.value)


def test_sizes_that_do_not_fit_each_other_are_a_sentence(write_segmenter, tmp_path):
    """Which the network library finds out, in whatever way it dies of it."""
    export = write_segmenter(tmp_path / "export")
    said = json.loads((export / DESCRIPTION).read_text())
    said["architecture"]["kernels"] = [[2, 2, 2], [5, 5, 5]]
    (export / DESCRIPTION).write_text(json.dumps(said))
    with pytest.raises(InputError, match="of another network"):
        load_segmenter(export)


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("network", ["PlainConvUNet", "ResidualEncoderUNet"])
def test_each_known_network_can_be_read(network, dim, write_segmenter, tmp_path):
    import torch

    export = write_segmenter(tmp_path / "export", dim, {"network": network})
    segmenter = load_segmenter(export)
    assert segmenter(torch.randn(1, 4, *[10] * dim)).shape == (1, 3, *[10] * dim)
