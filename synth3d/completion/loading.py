"""Finished runs as makers, loaded once by each process that works on a cohort."""

import json
import threading
from typing import TYPE_CHECKING

from synth3d.completion.request import CompleteRequest
from synth3d.errors import InputError

if TYPE_CHECKING:
    from synth3d.completion.makers import Maker

_LOADED: dict[tuple[CompleteRequest, str], "Maker"] = {}
"""The maker that this process has loaded last: a worker loads a run once, not for each case."""
_LOADING = threading.Lock()
"""Workers may be threads of one process, as a Dask worker's are."""


def maker_of(request: CompleteRequest, identity: str | None = None) -> "Maker":
    """The run or the plumbing, ready to work.

    It must still have this identity, as JSON; for None it is loaded afresh, whatever it is.
    """
    with _LOADING:
        if identity is not None and (request, identity) in _LOADED:
            return _LOADED[request, identity]
        maker = _load(request)
        found = json.dumps(maker.identity)
        if identity not in (None, found):
            raise InputError(
                f"{maker.title}: it has changed since the cohort was planned; run again"
            )
        _LOADED.clear()
        _LOADED[request, found] = maker
        return maker


def forget_makers() -> None:
    """Let go of what this process has loaded."""
    with _LOADING:
        _LOADED.clear()


def _load(request: CompleteRequest) -> "Maker":
    import torch

    from synth3d.completion.makers import EnsembleMaker, PlumbingMaker, RunMaker
    from synth3d.training import RunConfig, load_run, read_config

    if request.threads is not None:
        torch.set_num_threads(request.threads)
    if request.plumbing:
        config = read_config(request.runs[0]) if request.runs else RunConfig()
        return PlumbingMaker(request.hidden, config)
    makers = []
    for run in request.runs:
        maker = RunMaker(
            load_run(run), request.overlap, request.precision, request.batch, request.device
        )
        maker.refuse_restoring(request.restored)
        maker.refuse_others(request.hidden)
        maker.refuse_unexplained(bool(request.explain), request.draws)
        maker.refuse_mirror(request.mirror)
        if len(request.runs) == 1:
            maker.refuse_certain(request.members)
        makers.append(maker)
    return makers[0] if len(makers) == 1 else EnsembleMaker(makers)
