"""NiiVue, the script that shows volumes in 3-D: which one, how it gets here, and where it is kept.

Nothing is fetched unless somebody asks for it, and what is used is, to the last byte, what is
pinned here; so a page that was made yesterday and one that is made tomorrow hold the same script.
"""

import hashlib
import io
import os
import tarfile
from pathlib import Path

from synth3d.errors import InputError
from synth3d.files import atomic_path, make_folder

VERSION = "0.69.0"
URL = f"https://registry.npmjs.org/@niivue/niivue/-/niivue-{VERSION}.tgz"
PACKAGE_SHA512 = (
    "60c8d0bc9803d56d9bec3ba8c64c250b85716eb80878f449e6ac90cd72b18b6b"
    "f6301560dbce4ffc2210ca0e3aa030c60c871a3656ddf8c86d3bf79d31b5c990"
)
"""As the registry's record of the version has it (``dist.integrity``)."""
SCRIPT = "package/dist/niivue.umd.js"
"""What a page needs of the package: one classic script without imports."""
SCRIPT_SHA256 = "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"
LARGEST = 64_000_000
"""Bytes that are read of a package at most."""
PATIENCE = 60
"""Seconds without an answer after which the registry counts as out of reach."""


def place_kept() -> Path:
    """Where the script is kept on this machine, for all experiments of this user."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "synth3d" / f"niivue-{VERSION}.umd.js"


def kept_script() -> str | None:
    """The script, where :func:`keep_script` has left it here and it is as it was; else None."""
    try:
        content = place_kept().read_bytes()
    except (OSError, RuntimeError):  # the latter where there is no home
        return None
    if hashlib.sha256(content).hexdigest() != SCRIPT_SHA256:
        return None
    return content.decode("utf-8")


def keep_script(package: Path | None = None) -> Path:
    """Keep the script of the npm package on this machine; where.

    Args:
        package: The package as ``npm pack`` writes it; None fetches it from npm's registry, unless
            the script is kept already.

    Raises:
        InputError: The package cannot be had, or is another one, or nothing can be written.
    """
    if package is None and kept_script() is not None:
        return place_kept()
    content = _download() if package is None else _read(package)
    found = hashlib.sha512(content).hexdigest()
    if found != PACKAGE_SHA512:
        raise InputError(
            f"{package or URL} is not NiiVue {VERSION} as npm published it: its SHA-512 begins "
            f"with {found[:12]}, expected {PACKAGE_SHA512[:12]}; fetch {URL} again"
        )
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        member = archive.extractfile(SCRIPT)
        assert member is not None, "the package is the very one that has it"
        script = member.read()
    path = place_kept()
    make_folder(path.parent)
    with atomic_path(path) as temporary:
        temporary.write_bytes(script)
    return path


def _read(package: Path) -> bytes:
    try:
        with package.open("rb") as file:
            return file.read(LARGEST)
    except OSError as error:
        raise InputError(f"cannot read {package}: {error.strerror}") from error


def _download() -> bytes:
    """The package from npm's registry.

    Raises:
        InputError: It cannot be reached.
    """
    from http.client import HTTPException
    from urllib.request import urlopen

    try:
        with urlopen(URL, timeout=PATIENCE) as answer:
            return answer.read(LARGEST)
    except (OSError, HTTPException) as error:
        raise InputError(
            f"cannot fetch {URL} ({getattr(error, 'reason', None) or error}); fetch it where there "
            f"is a network (npm pack @niivue/niivue@{VERSION}), carry the file here and name it: "
            f"seg_eval fetch-viewer niivue-{VERSION}.tgz"
        ) from error
