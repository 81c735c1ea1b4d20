"""What each source counts for each target: ω of a run, and what the source is worth, side by side.

ω (Han et al., MICCAI 2023, eq. 2 and figure 3) follows from the set of sources alone and says what
the mean of features is made of. It is no importance: attention has its say beside it, and features
may say the same. So beside each ω stands by how many dB the PSNR falls where that source is left
out, over cases that have the truth.
"""

import datetime
import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from synth3d.cohort import Case, Modality, find_cases
from synth3d.completion.loading import maker_of
from synth3d.completion.receipts import CONTRIBUTIONS, FORMAT, contributions_damage
from synth3d.completion.request import CompleteRequest
from synth3d.errors import InputError
from synth3d.files import (
    claim,
    place,
    progress,
    read_object,
    refuse_link,
    sha256,
    sweep,
    write_csv,
    write_json,
    write_text,
)
from synth3d.pictures import draw_contributions
from synth3d.scoring import psnr_brain

if TYPE_CHECKING:
    from synth3d.completion.makers import RunMaker
    from synth3d.data import Prepared

MOST_CASES = 4
"""With the truth, each of which is made from every set of its sequences: 14 times for four."""

COLUMNS = (
    "target", "sources", "source", "weight", "psnr_loss_db", "psnr_loss_sd", "psnr_db", "cases",
    "truth",
)  # fmt: skip

Sources = tuple[Modality, ...]


@dataclass(frozen=True)
class Truth:
    """Cases that have all sequences of a run.

    Attributes:
        cases: At most ``MOST_CASES``.
        whence: ``validation``: those that the run was validated on; ``cohort``: whole ones of the
            cohort, which it did not learn from as far as it says; ``not known``: there are none.
    """

    cases: tuple[Case, ...]
    whence: str


def contributions_in_the_way(request: CompleteRequest) -> Path | None:
    """A file called as one of ours in the output folder that is not ours."""
    if (request.out / CONTRIBUTIONS[0]).exists():
        return None
    return next((p for name in CONTRIBUTIONS if (p := request.out / name).exists()), None)


def write_contributions(request: CompleteRequest, identity: str) -> None:
    """Write ``contributions.csv`` and ``.png`` into the output folder, if the run weighs sources.

    They are left as they are where they follow from the very same run and cases. Of several
    processes one writes, and the others wait. Without cases that have the truth, or for a run that
    needs all of its sources, what a source is worth is not known, and its cells are empty.

    Args:
        request: Whose run it is.
        identity: The maker's, as JSON.

    Raises:
        InputError: The run has changed, or the folder cannot be written.
    """
    maker: RunMaker = maker_of(request, identity)  # type: ignore[assignment]
    if "weights" not in maker.explains:
        return
    about, table, plot = (place(request.out, name) for name in CONTRIBUTIONS)
    lock = place(refuse_link(request.out / ".locks"), about.name)
    with claim(lock, wait=True):
        sweep(request.out, {*CONTRIBUTIONS})
        truth = find_truth(request, maker)
        hashes = {c.name: {m: sha256(p) for m, p in c.images.items()} for c in truth.cases}
        wanted = json.loads(json.dumps({"how": maker.identity, "truth": hashes}))
        same = about.exists() and _identity_of(about) == wanted
        if same and not contributions_damage(request.out):
            return
        about.unlink(missing_ok=True)
        rows = contributions(maker, truth)
        stream = io.StringIO()
        write_csv(stream, rows, COLUMNS)
        write_text(table, stream.getvalue())
        draw_contributions(_bars(rows), _title(maker, rows, truth), plot)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        facts = {
            "format": FORMAT,
            "maker": maker.title,
            "truth": truth.whence,
            "cases": [case.name for case in truth.cases],
            "meaning": "weight is no importance; psnr_loss_db is what the picture loses in the "
            "brain, in the network's scale (range 1), where the source is left out",
            "finished": now,
            "identity": wanted,
            "files": {path.name: sha256(path) for path in (table, plot)},
        }
        write_json(about, facts)


def find_truth(request: CompleteRequest, maker: "RunMaker") -> Truth:
    """The cases that tell what a source is worth, none for a run that needs all of its sources.

    What counts as missing in ``request`` is not looked at.
    """
    wanted = {*maker.sources, *maker.targets}

    def whole(cases: Sequence[Case], hidden: Sequence[Modality] = ()) -> tuple[Case, ...]:
        found = [case for case in cases if wanted <= {*case.images} - {*hidden}]
        return tuple(case for case in found if not maker.trouble(case, ()))[:MOST_CASES]

    if maker.needs_all:
        return Truth((), "not known")
    said: dict[str, Any] = {}
    if (path := maker.run.folder / "cohort.json").is_file():
        said = read_object(path)
    folder, names = said.get("data_folder"), said.get("val") or []
    try:
        cases = find_cases(Path(str(folder)), names) if folder and names else []
    except InputError:
        cases = []  # on another machine
    if found := whole(cases):
        return Truth(found, "validation")
    learnt = {*(said.get("train") or [])}
    own = [c for c in find_cases(request.data, request.cases) if c.name not in learnt]
    found = whole(own, request.hidden)
    return Truth(found, "cohort" if found else "not known")


def contributions(maker: "RunMaker", truth: Truth) -> list[dict[str, Any]]:
    """A row for each target, set of sources and source in it, with the keys of ``COLUMNS``.

    ``weight`` is ω; ``psnr_db`` is the mean over the cases of the PSNR in the brain, in the
    network's scale (range 1), from the set; ``psnr_loss_db`` the mean by which it is lower without
    the source, and ``psnr_loss_sd`` its standard deviation over the cases. None where it is not
    known: for a set of one there is nothing without it.
    """
    scores = _scores(maker, truth.cases)
    rows = []
    for target in maker.targets:
        for sources in source_sets(maker, target):
            weights = _weights(maker, sources, target)
            own = scores.get((target, sources), [])
            for source, weight in zip(sources, weights, strict=True):
                rest: Sources = tuple(name for name in sources if name != source)
                others = scores.get((target, rest), [])
                losses = [a - b for a, b in zip(own, others, strict=True)] if others else []
                rows.append({
                    "target": target,
                    "sources": "+".join(sources),
                    "source": source,
                    "weight": weight,
                    "psnr_loss_db": _mean(losses),
                    "psnr_loss_sd": float(np.std(losses, ddof=1)) if len(losses) > 1 else None,
                    "psnr_db": _mean(own),
                    "cases": len(own),
                    "truth": truth.whence,
                })  # fmt: skip
    return rows


def source_sets(maker: "RunMaker", target: Modality) -> list[Sources]:
    """The sets of sources from which ``maker`` makes ``target``, small ones first."""
    names: list[Modality] = [name for name in maker.sources if name != target]
    least = len(names) if maker.needs_all else 1
    sizes = range(least, len(names) + 1)
    return [some for size in sizes for some in combinations(names, size)]


def _scores(
    maker: "RunMaker", cases: Sequence[Case]
) -> Mapping[tuple[Modality, Sources], list[float]]:
    """PSNR of each case by target and set of sources; each set is made from once."""
    found: dict[tuple[Modality, Sources], list[float]] = {}
    sets = list(dict.fromkeys(s for target in maker.targets for s in source_sets(maker, target)))
    work = [(case, sources) for case in cases for sources in sets]
    for (_, sources), pictures in zip(work, _made(maker, work), strict=True):
        for target, psnr in pictures.items():
            found.setdefault((target, sources), []).append(psnr)
    return found


def _made(
    maker: "RunMaker", work: Sequence[tuple[Case, Sources]]
) -> Iterator[dict[Modality, float]]:
    """Of each case made from some of its sources the PSNR of all else that the run makes."""
    from synth3d.data import prepare

    prepared = None
    for case, sources in progress(work, "what a source is worth", unit="set"):
        if prepared is None or prepared.case.name != case.name:
            data, mode = maker.config.data, maker.config.mode
            alone = replace(case, label=None)
            prepared = prepare(alone, maker.sources, maker.targets, data, mode)
        made = maker.synthesize(_with_only(prepared, sources, maker))
        yield {
            target: psnr_brain(prepared.volumes[target], picture, prepared.brain)
            for target, picture in zip(maker.targets, made, strict=True)
            if target not in sources
        }


def _with_only(prepared: "Prepared", sources: Sources, maker: "RunMaker") -> "Prepared":
    """The case as the run was shown such cases: of fixed targets the brain is all sources'."""
    from synth3d.data import shown

    if maker.config.mode == "any":
        return shown(prepared, sources)
    volumes = {name: prepared.volumes[name] for name in sources}
    return replace(prepared, volumes=volumes, scales={n: prepared.scales[n] for n in sources})


def _weights(maker: "RunMaker", sources: Sources, target: Modality) -> list[float]:
    """ω of each of ``sources`` for ``target``."""
    import torch

    present = torch.tensor([[name in sources for name in maker.sources]])
    wanted = torch.tensor([[name == target for name in maker.targets]])
    with torch.inference_mode():
        omega = maker.run.framework.weights(present.to(maker.device), wanted.to(maker.device))
    found = omega[0, maker.targets.index(target)].float().cpu()
    return [float(found[maker.sources.index(name)]) for name in sources]


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _bars(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, Any, list[float], list[Any]]]:
    """As :func:`synth3d.pictures.draw_contributions` wants them."""
    keys = list(dict.fromkeys((row["target"], row["sources"]) for row in rows))
    bars = []
    for key in keys:
        some = [row for row in rows if (row["target"], row["sources"]) == key]
        weights, losses = ([row[name] for row in some] for name in ("weight", "psnr_loss_db"))
        bars.append((key[0], tuple(key[1].split("+")), weights, losses))
    return bars


def _title(maker: "RunMaker", rows: Sequence[Mapping[str, Any]], truth: Truth) -> str:
    told = f"PSNR over {len(truth.cases)} {truth.whence} cases"
    return f"{maker.name}: ω is no importance; {told if truth.cases else 'PSNR not known'}"


def _identity_of(about: Path) -> Any:
    try:
        return read_object(about, "identity")["identity"]
    except InputError as error:
        print(f"note: {about} is made anew: {error}", file=sys.stderr)
        return None
