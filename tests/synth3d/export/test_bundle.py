"""A MONAI bundle, judged by MONAI itself in a process that finds our code in the bundle alone."""

import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import synth3d
from synth3d.cli import main
from synth3d.export import BundleNetwork
from synth3d.files import read_json, write_json

TEXT, TENSOR = {"type": "string", "minLength": 1}, {
    "type": "object",
    "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range",
                 "is_patch_data", "channel_def"],
    "properties": {
        "type": {"enum": ["image", "series", "tuples", "probabilities"]},
        "modality": {"type": "string"},
        "num_channels": {"type": "integer", "minimum": 1},
        "spatial_shape": {"type": "array", "minItems": 2},
        "value_range": {"type": "array"},
        "is_patch_data": {"type": "boolean"},
        "channel_def": {"type": "object", "minProperties": 1},
    },
}  # fmt: skip
TEXTS = ("version", "monai_version", "pytorch_version", "numpy_version", "task", "description",
         "authors", "copyright")  # fmt: skip
RULES = {
    "type": "object",
    "required": [*TEXTS, "required_packages_version", "network_data_format"],
    "properties": {
        **dict.fromkeys(TEXTS, TEXT),
        "required_packages_version": {"type": "object", "additionalProperties": TEXT},
        "network_data_format": {
            "type": "object",
            "required": ["inputs", "outputs"],
            "additionalProperties": {"type": "object", "additionalProperties": TENSOR},
        },
    },
}
"""What MONAI's specification of a bundle demands of metadata.json, as a JSON schema; its own schema
would have to be downloaded."""

CHECKS = """
import monai.bundle as bundle
config = {"meta_file": "configs/metadata.json", "config_file": "configs/inference.json"}
bundle.verify_metadata(meta_file=config["meta_file"], filepath=RULES)
bundle.verify_net_in_out(net_id="network_def", device="cpu", **config)
bundle.run(dataset_dir=DATA, output_dir=OUT, device="cpu", **config)
import synth3d
print(synth3d.__file__)
"""


@pytest.fixture(scope="module")
def bundle(ready, tmp_path_factory):
    """The bundle of the run that makes FLAIR."""
    folder = tmp_path_factory.mktemp("bundle") / "FlairBundle"
    assert main(["export", str(ready / "flair"), "--to", "monai", str(folder)]) == 0
    return folder


def test_monai_accepts_it_and_its_inference_gives_our_pictures(ready, bundle, tmp_path):
    write_json(tmp_path / "rules.json", RULES)
    places = {"RULES": tmp_path / "rules.json", "DATA": ready / "in", "OUT": tmp_path / "out"}
    code = "".join(f"{name} = {str(path)!r}\n" for name, path in places.items()) + CHECKS
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    others = [path for path in known if not Path(path, "synth3d").is_dir()]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(others)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=bundle,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.splitlines()[-1]).is_relative_to(bundle)
    cases = [case for case in synth3d.find_cases(ready / "in") if case.missing() == ("t2f",)]
    names = [f"{case.name}-t2f.nii.gz" for case in cases]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    own = synth3d.load_run(ready / "flair", "cpu").synthesize(cases[0])["t2f"]
    made = nib.load(tmp_path / "out" / names[0])
    np.testing.assert_allclose(made.get_fdata(), own.get_fdata(), rtol=1e-5, atol=1e-3)


def test_its_network_takes_its_weights_as_any_other_bundles_does(bundle):
    network = BundleNetwork(str(bundle / "models"), "cpu")
    shape = read_json(bundle / "configs" / "metadata.json")["network_data_format"]["inputs"]
    patch = torch.rand(1, 3, *shape["image"]["spatial_shape"])
    with torch.no_grad():
        before = network(patch)
        for value in network.parameters():
            value.zero_()
        network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
        assert torch.equal(network(patch), before)


def test_a_bundle_that_has_nothing_to_do_says_so(bundle, phantom_cohort, tmp_path):
    from synth3d.errors import InputError

    with pytest.raises(InputError, match="nothing is missing"):
        BundleNetwork(str(bundle / "models"), "cpu").complete(phantom_cohort, tmp_path / "out")
