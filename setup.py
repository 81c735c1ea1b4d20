"""Metadata, dependencies and console scripts; compiles nothing."""

import re
from pathlib import Path

from setuptools import find_namespace_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"$', (ROOT / "synth3d" / "__init__.py").read_text("utf-8"), re.MULTILINE
).group(1)

setup(
    name="synth3d",
    version=VERSION,
    description=(
        "Synthesise the MRI sequence a brain-tumour case lacks (3-D AGI-Net) and certify how "
        "much tumour Dice it wins back (nnU-Net v2)"
    ),
    long_description=(ROOT / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_namespace_packages(
        include=["cuda_ops*", "synth3d*", "nnunet_plans*", "seg_eval*"],
        exclude=["*.__pycache__*"],
    ),
    package_data={
        "cuda_ops": ["*.cu", "py.typed"],
        "synth3d": ["*.toml", "*/*.toml", "training/recipes/*.toml", "*/*/*.j2", "py.typed"],
        "nnunet_plans": ["plans/*.json", "py.typed"],
        "seg_eval": ["report/words/*", "py.typed"],
    },
    install_requires=[
        "torch>=2.8,!=2.9.*",
        "torchvision>=0.23",
        "nnunetv2>=2.8.1,<2.9",
        "batchgenerators>=0.25.1",
        "acvl-utils>=0.2.6,<0.3",
        "torchio>=1.2.1,<2",
        "SimpleITK>=2.3",
        "nibabel>=5.2",
        "nilearn>=0.11",
        "numpy>=2.0",
        "scipy>=1.13",
        "threadpoolctl>=3.5",
        "scikit-image>=0.24",
        "scikit-learn>=1.5",
        "safetensors>=0.4",
        "matplotlib>=3.9",
        "pillow>=11",
        "jinja2>=3.1",
        "tqdm>=4.66",
    ],
    extras_require={
        # For a torch of CUDA 13 and of CUDA 12; CuPy 14 keeps compiled templates on disk.
        "gpu": ["cupy-cuda13x>=14"],
        "gpu-cuda12": ["cupy-cuda12x>=14"],
        "score": ["lpips>=0.1.4"],
        "cluster": ["distributed>=2024.8"],
        "tensorboard": ["tensorboard>=2.16"],  # which is shown a training's scalars
        "test": [
            "pytest>=8.3",
            "pytest-xdist>=3.6",
            "pytest-timeout>=2.3",
            "hypothesis>=6.110",
            "ruff>=0.6",
            "pyright[nodejs]>=1.1.414",  # brings itself and node along; downloads nothing more
            "build>=1.2",
            "lpips>=0.1.4",
            "distributed>=2024.8",
            "torchmetrics>=1.4",
            "playwright>=1.50",  # drives the system's chromium; downloads no browser
            "monai>=1.5",
            "jsonschema>=4.20",  # with which MONAI verifies a bundle
            "huggingface_hub>=0.25",  # reads our model cards
            # compiles the CUDA source for the V100, which torch's own CUDA 13 has dropped
            "nvidia-cuda-nvrtc-cu12>=12.4; sys_platform=='linux' and platform_machine=='x86_64'",
        ],
    },
    entry_points={
        "console_scripts": [
            "synth3d = synth3d.cli:main",
            "synth3d-bids = synth3d.bids.command:main",
            "seg_eval = seg_eval.cli:main",
        ]
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
    ],
)
