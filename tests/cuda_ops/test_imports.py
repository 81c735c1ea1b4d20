"""cuda_ops and synth3d.models live on torch alone."""

import subprocess
import sys

import pytest

BLOCK = """
import sys
from importlib.metadata import packages_distributions, requires
import re

allowed, queue = set(), ["torch", "numpy"]
while queue:
    name = re.split(r"[^A-Za-z0-9._-]", queue.pop())[0].lower().replace("_", "-")
    if name in allowed:
        continue
    allowed.add(name)
    try:
        queue += [line for line in requires(name) or () if "extra ==" not in line]
    except Exception:
        pass
banned = {
    module
    for module, owners in packages_distributions().items()
    if not {owner.lower().replace("_", "-") for owner in owners} & allowed
} - {"synth3d", "cuda_ops"} - sys.stdlib_module_names

class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in banned:
            raise ModuleNotFoundError(f"blocked: {name}", name=name)

sys.meta_path.insert(0, Wall())
assert "torchio" in banned and "nibabel" in banned, "the wall blocks nothing"
"""
USE = {
    "cuda_ops": """
import torch, cuda_ops
cuda_ops.RollingConv(4, 4, groups=2)(
    torch.zeros(1, 4, 3, 3, 3), torch.zeros(1, 2, 3), torch.ones(1, 2)
)
""",
    "synth3d.models": """
import torch
from synth3d.models import GENERATORS, PatchCritic, options_of
for name, make in GENERATORS.items():
    dim = 2 if name == "arc-resunet" else 3
    options = {"stages": 1} if "stages" in options_of(name) else {}
    make(2, 1, dim=dim, widths=(8, 16), **options)(torch.zeros(1, 2, *[4] * dim))
""",
}


@pytest.mark.parametrize("package", USE)
def test_imports_and_runs_with_torch_alone(package):
    result = subprocess.run(
        [sys.executable, "-c", BLOCK + USE[package]], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
