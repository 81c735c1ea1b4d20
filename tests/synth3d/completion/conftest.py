"""A small cohort on an oblique grid, and untrained but complete run folders."""

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

import synth3d
from synth3d.files import sha256, write_json
from synth3d.images.intensity import Scale, ScalePrior
from synth3d.training import build_framework
from synth3d.training.run_folder import FORMAT, read_config, save_weights

SHAPE_XYZ = (19, 21, 13)
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = Rotation.from_euler("xyz", (-0.1, 0.02, 0.1)).as_matrix() * (-0.9, 1.1, 2.4)
OBLIQUE[:3, 3] = (9, -7, 3)
LEVELS = {"t1n": 700, "t1c": 900, "t2w": 500, "t2f": 800}
TOKENS = {"t1n": "_t1", "t1c": "_t1ce", "t2w": "_t2", "t2f": "_flair"}


@pytest.fixture(scope="session")
def write_case():
    """Write a BraTS-2018-named case: a textured ellipsoid on an oblique, anisotropic grid."""

    def write(root, number, modalities=tuple(LEVELS), dtype=np.int16, share=1.0):
        name = f"Brats18_X_{number}_1"
        generator = np.random.default_rng(number)
        axes = np.meshgrid(*[np.linspace(-1, 1, side) for side in SHAPE_XYZ], indexing="ij")
        brain = sum(axis**2 for axis in axes) < 0.8
        (root / name).mkdir(parents=True, exist_ok=True)
        for modality in modalities:
            level = share * LEVELS[modality]
            picture = brain * (level * (0.5 + generator.random(SHAPE_XYZ)) + 1)
            image = nib.Nifti1Image(picture.astype(dtype), OBLIQUE)
            image.header.set_qform(OBLIQUE, code=1)
            image.header.set_sform(OBLIQUE, code=2)
            image.header.set_xyzt_units("mm", "sec")
            nib.save(image, root / name / f"{name}{TOKENS[modality]}.nii.gz")
        label = nib.Nifti1Image((brain & (axes[0] > 0.3)).astype(np.uint8) * 2, OBLIQUE)
        nib.save(label, root / name / f"{name}_seg.nii.gz")
        return name

    return write


@pytest.fixture(scope="session")
def write_run():
    """Write an untrained but complete run folder of a tiny network."""

    def write(folder, dropout=0.1, train=None, **config):
        shape = {"name": "resunet", "widths": [4, 8], "blocks": 1, "groups": 2, "stages": 1}
        data = {"patch": [8, 8, 8], "overlap": [4, 4, 4], "source_dropout": dropout}
        train = train or {"framework": "l1"}
        folder.mkdir(parents=True)
        write_json(folder / "config.json", config | {"model": shape, "data": data, "train": train})
        torch.manual_seed(0)
        framework = build_framework(read_config(folder), training=False)
        save_weights(folder / "weights.safetensors", framework.generator)
        scales = {name: Scale(0.1 * level, 1.4 * level) for name, level in LEVELS.items()}
        write_json(folder / "scales.json", ScalePrior([scales] * 3).to_list())
        digest = sha256(folder / "weights.safetensors")
        write_json(folder / "done.json", {"format": FORMAT, "weights_sha256": digest})
        return folder

    return write


@pytest.fixture(scope="session")
def ready(tmp_path_factory, write_case, write_run):
    """Two whole cases and two that lack FLAIR in ``in``; runs ``run`` and ``random``; read-only."""
    root = tmp_path_factory.mktemp("complete")
    for number in range(4):
        some = tuple(LEVELS) if number < 2 else ("t1n", "t1c", "t2w")
        write_case(root / "in", number, some)
    write_run(root / "run")
    write_run(root / "random", train={"framework": "ddpm", "ddpm": {"sampling_steps": 2}})
    return root


@pytest.fixture(scope="session")
def completed(ready, tmp_path_factory):
    """The cohort of ``ready`` completed once; read-only."""
    out = tmp_path_factory.mktemp("completed") / "out"
    synth3d.complete(run=ready / "run", data=ready / "in", out=out, device="cpu")
    return out
