"""A small cohort on an oblique grid, runs beside it, and the same cohort completed."""

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import synth3d

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


@pytest.fixture
def complete(ready, tmp_path):
    """Complete the cohort of ``ready`` into ``out``, unless told otherwise."""

    def run(**settings):
        given = {"run": ready / "run", "data": ready / "in", "device": "cpu"}
        return synth3d.complete(out=tmp_path / "out", **given | settings)

    return run
