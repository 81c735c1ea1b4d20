"""A BraSyn container: everything that ``docker build`` needs, and an entry point without Docker.

The contract of BraTS 2025: no arguments, cases in /input, one NIfTI file per case in /output and
nothing else there, no network, any user id, a home that cannot be written.
"""

import platform
from collections.abc import Sequence
from pathlib import Path

from synth3d.cohort import MODALITIES
from synth3d.errors import InputError
from synth3d.export.card import Named, card_text
from synth3d.export.contents import Contents, copy_source, library_versions, write_model
from synth3d.files import make_folder, write_text

MAIN = '''\
"""Writes to /output the sequence that each case in /input lacks; or: main.py INPUT OUTPUT.

Needs no network, no home, no particular user, and writes nowhere else.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("CUDA_OPS_BACKEND", "torch")  # no CuPy in here
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))

from synth3d.export import answer_brasyn

if __name__ == "__main__":
    raise SystemExit(answer_brasyn(Path(__file__).resolve().parent / "models", sys.argv[1:]))
'''

DOCKERFILE = """\
FROM --platform=linux/amd64 python:{python}-slim
COPY requirements.txt /requirements.txt
RUN pip install --no-cache-dir -r /requirements.txt
COPY app /app
RUN chmod -R a+rX /app
ENTRYPOINT ["python", "/app/main.py"]
"""

README = """\
# {title}

```
docker build --tag {tag} .
docker run --rm --network none --user $(id -u):$(id -g) --gpus all --shm-size 4g \\
    --volume $PWD/input:/input:ro --volume $PWD/output:/output {tag}
```

`/input/CASE/CASE-t1n.nii.gz` and so on go in, one of t1n, t1c, t2w, t2f missing in each case;
`/output/CASE-t2f.nii.gz` comes out, float32 on the case's grid, and nothing else is written.

It makes {targets}{lacking}.

Without Docker, where the libraries of requirements.txt are installed:
`python app/main.py INPUT OUTPUT`. If a case cannot be done the exit code is 2, and a sentence says
why; then none is done, unless the trouble shows only in voxels.
"""


def write_context(runs: Sequence[Contents], named: Named, folder: Path) -> None:
    """The context of ``docker build`` for ``runs``, whose targets differ.

    Raises:
        InputError: A run makes nothing that BraSyn hides, or two make the same.
    """
    makers: dict[str, str] = {}
    for one in runs:
        if not {*one.config.targets} & {*MODALITIES}:
            raise InputError(
                f"{one.name} makes none of {', '.join(MODALITIES)}, which BraSyn hides"
            )
        for target in one.config.targets:
            if target in makers:
                raise InputError(
                    f"{makers[target]} and {one.name} both make {target}; export one of them"
                )
            makers[target] = one.name
    names = [one.name for one in runs]
    if len(set(names)) < len(names):
        raise InputError(f"two runs have one name, {', '.join(names)}; rename a folder")
    app = make_folder(folder / "app")
    copy_source(app)
    for one in runs:
        write_model(one, make_folder(app / "models" / one.name), "model.safetensors")
    pins = "".join(f"{name}=={version}\n" for name, version in library_versions().items())
    write_text(app / "main.py", MAIN)
    write_text(folder / "requirements.txt", pins)
    major, minor, _ = platform.python_version_tuple()
    write_text(folder / "Dockerfile", DOCKERFILE.format(python=f"{major}.{minor}"))
    write_text(folder / "README.md", _readme(runs, named, makers))


def _readme(runs: Sequence[Contents], named: Named, makers: dict[str, str]) -> str:
    gone = [name for name in MODALITIES if name not in makers]
    lacking = ""
    if gone:
        lacking = f", **not {', '.join(gone)}**: a case that lacks one of these is refused"
        print(f"the container cannot make {', '.join(gone)}; add runs that do with --also")
    tag = "-".join(makers).lower()
    about = README.format(
        title="BraSyn container", tag=f"brasyn-{tag}", targets=", ".join(makers), lacking=lacking
    )
    return "\n".join([about, *(card_text(one, named).replace("\n#", "\n##") for one in runs)])
