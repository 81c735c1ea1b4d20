"""How far a completed cohort is: ``synth3d status`` and ``synth3d verify``.

Beside the receipts a folder knows which cases are expected (``cohort.json``), why some failed
(``failed/``) and which files were as their receipts say when last looked at (``verified.json``).
Several processes may write all of it at once.
"""

import contextlib
import datetime
import json
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synth3d.cohort import listed
from synth3d.completion.receipts import FORMAT, contributions_damage, damage
from synth3d.errors import InputError
from synth3d.files import (
    claim,
    is_claimed,
    place,
    progress,
    read_object,
    refuse_link,
    sha256,
    sweep,
    write_json,
)

if TYPE_CHECKING:
    from synth3d.completion.plan import Job

ORDER = ("verified", "done", "working", "damaged", "failed", "missing")
"""States of a case, in the order in which they are counted."""


@dataclass(frozen=True)
class StateRequest:
    """A completed cohort to look at: the fields are the flags of ``status`` and ``verify``."""

    out: Path
    json: bool = False


@dataclass(frozen=True)
class CaseState:
    """How one case of a completed cohort is.

    Attributes:
        case: Its name.
        state: ``verified`` (its files had the hashes of its receipt and have not changed since),
            ``done`` (there is a receipt), ``working`` (a process has it now), ``damaged`` (its
            receipt or a file is not as it was written), ``failed`` or ``missing``.
        reason: Why, of one that is damaged or failed.
    """

    case: str
    state: str
    reason: str = ""


def expect(out: Path, names: Sequence[str]) -> None:
    """Note which cases the cohort in ``out`` is to have, beside those that others noted."""
    path = out / "cohort.json"
    with _alone(path):
        sweep(out, {path.name})
        known = _cases_in(path)
        if wanted := {*names} - {*known}:
            write_json(path, {"cases": sorted({*known, *wanted})})


def no_more_expected(out: Path, names: Collection[str]) -> list[str]:
    """Cases that are done in ``out`` and are not among ``names``, those of the input, by name."""
    return sorted({*_receipts(out)} - {*names})


def note_failure(out: Path, job: "Job", reason: str) -> None:
    """Note that ``job`` failed; it is not tried again with the same files and the same run."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    facts = {"case": job.case.name, "reason": reason, "failed": now, "identity": job.identity}
    write_json(_failure(out, job.case.name), facts)


def forget_failure(out: Path, case: str) -> None:
    """What had failed is done."""
    path = _failure(out, case)
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # others are in it, or it was never there
        path.parent.rmdir()


def failure_of(out: Path, job: "Job") -> str:
    """Why ``job``, with the same files and the same run, failed before; empty if it did not."""
    facts = _failure_facts(out, job.case.name)
    return facts["reason"] if facts.get("identity") == job.identity else ""


def states_of(out: Path) -> list[CaseState]:
    """Each case that is expected in ``out`` or has a receipt there, by name; reads no image.

    Raises:
        InputError: ``synth3d complete`` has not worked in ``out``, or a file of ours is damaged.
    """
    receipts, verified = _receipts(out), _verified(out)
    expected = _cases_in(out / "cohort.json")
    if not receipts and not expected:
        raise InputError(f"{out} is no folder that synth3d complete has worked in")
    return [_state(out, name, receipts, verified) for name in sorted({*expected, *receipts})]


def _state(
    out: Path, name: str, receipts: Mapping[str, Path], verified: Mapping[str, Any]
) -> CaseState:
    if is_claimed(place(out / ".locks", name)):
        return CaseState(name, "working")
    if name in receipts:
        try:
            seen = _look_of(out, receipts[name])
        except (InputError, OSError) as error:
            return CaseState(name, "damaged", str(error))
        return CaseState(name, "verified" if verified.get(name) == seen else "done")
    if reason := _failure_facts(out, name).get("reason"):
        return CaseState(name, "failed", str(reason))
    return CaseState(name, "missing")


def verify(out: Path) -> list[CaseState]:
    """As :func:`states_of`, after all files have been held against the hashes of their receipts.

    Raises:
        InputError: As :func:`states_of`.
    """
    receipts, found, seen = _receipts(out), dict[str, str](), dict[str, Any]()
    for name, path in progress(sorted(receipts.items()), "verifying", len(receipts), unit="case"):
        if is_claimed(place(out / ".locks", name)):
            continue
        try:
            before = _look_of(out, path)
            fault = damage(out, path)
        except (InputError, OSError) as error:
            before, fault = {}, damage(out, path) or str(error)
        if fault:
            found[name] = fault
        else:
            seen[name] = before
    if receipts:
        with _alone(out / "verified.json"):
            sweep(out, {"verified.json"})
            known = {k: v for k, v in _verified(out).items() if k in receipts and k not in found}
            write_json(out / "verified.json", known | seen)
    return [
        CaseState(one.case, "damaged", found[one.case]) if one.case in found else one
        for one in states_of(out)
    ]


def tell_status(request: StateRequest, again: bool = False) -> int:
    """Print how far a cohort is, after verifying it if ``again``; 0 if all of it is there and well.

    Raises:
        InputError: As :func:`states_of`.
    """
    states = verify(request.out) if again else states_of(request.out)
    fault = contributions_damage(request.out) if again else ""
    counts = Counter(one.state for one in states)
    if request.json:
        print(json.dumps([asdict(one) for one in states], indent=2))
    else:
        some = ", ".join(f"{counts[state]} {state}" for state in ORDER if counts[state])
        print(f"{len(states)} cases in {request.out}: {some}")
        for one in states:
            if one.reason:
                print(f"{one.state}: {one.case}: {one.reason}")
        for state in ("working", "missing"):
            if names := [one.case for one in states if one.state == state]:
                print(f"{state}: {listed(names)}")
    if fault:
        print(f"damaged: {fault}", file=sys.stderr)
    return 0 if {*counts} <= {"verified", "done"} and not fault else 1


def _receipts(out: Path) -> dict[str, Path]:
    """Name of each case that has a receipt → that."""
    ending = ".receipt.json"
    return {path.name.removesuffix(ending): path for path in sorted(out.glob(f"*/*{ending}"))}


def _look_of(out: Path, receipt: Path) -> dict[str, Any]:
    """What a receipt says and what its files look like from outside; hashes are not computed.

    Raises:
        InputError, OSError: It is no receipt of ours, or a file is gone.
    """
    said = read_object(receipt, "files", "format")
    if said["format"] != FORMAT or not isinstance(said["files"], dict):
        raise InputError(f"{receipt} is of another version of synth3d")
    files = {name: place(out, *name.split("/")).stat() for name in said["files"]}
    looks = {name: [stat.st_size, stat.st_mtime_ns] for name, stat in files.items()}
    return {"receipt": sha256(receipt), "files": looks}


def _failure(out: Path, case: str) -> Path:
    return place(refuse_link(out / "failed"), f"{case}.json")


def _failure_facts(out: Path, case: str) -> dict[str, Any]:
    path = _failure(out, case)
    try:
        return read_object(path, "reason", "identity") if path.exists() else {}
    except InputError:
        if path.exists():
            raise
        return {}  # another process has done the case meanwhile


def _cases_in(path: Path) -> list[str]:
    if not path.exists():
        return []
    cases = read_object(path, "cases")["cases"]
    if not isinstance(cases, list) or not all(isinstance(case, str) for case in cases):
        raise InputError(f"{path} is damaged: its cases are no names; remove it and run again")
    return cases


def _verified(out: Path) -> dict[str, Any]:
    path = out / "verified.json"
    return read_object(path) if path.exists() else {}


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    with claim(place(refuse_link(path.parent / ".locks"), path.name), wait=True):
        yield
