"""Who made a record: only what this user made on this machine vouches for a pickle.

nnU-Net leaves pickles, which run any code that they hold when they are loaded. Whoever hands on a
work folder can write any record into it, but not the seal on a record: a keyed hash, whose key
never leaves the user's own state folder.
"""

import functools
import hmac
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SIZE = 32


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """``record``, plain values of JSON, with its ``seal``."""
    plain = {name: value for name, value in record.items() if name != "seal"}
    return plain | {"seal": _seal_of(plain)}


def is_ours(record: Mapping[str, Any]) -> bool:
    """Whether :func:`sealed` made this very record, for this user on this machine."""
    plain = {name: value for name, value in record.items() if name != "seal"}
    said = str(record.get("seal")).encode(errors="surrogatepass")
    return hmac.compare_digest(said, _seal_of(plain).encode())


def _seal_of(plain: Mapping[str, Any]) -> str:
    text = json.dumps(plain, sort_keys=True, default=str)
    return hmac.new(_key(_key_file()), text.encode(), "sha256").hexdigest()


def _key_file() -> Path:
    """Under ``XDG_STATE_HOME``, by default in the home folder."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "synth3d" / "key"


@functools.cache
def _key(path: Path) -> bytes:
    """The user's key, made at its first use.

    Where none can be kept, it is of this process alone; then trust has to be said the next time.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        own = path.with_name(f".partial-{os.getpid()}-{secrets.token_hex(4)}")
        handle = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(handle, secrets.token_bytes(SIZE))
            os.close(handle)
            os.link(own, path)  # which of several processes comes first has made it
        except FileExistsError:
            pass
        finally:
            own.unlink()
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            status, key = os.fstat(handle), file.read(SIZE + 1)
        if len(key) == SIZE and status.st_uid == os.geteuid() and not status.st_mode & 0o022:
            return key
        reason = "it is not this user's own"
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        reason = str(error)
    print(f"note: no key in {path} ({reason}); another command will ask for --trust")
    return secrets.token_bytes(SIZE)
