"""Runs that begin with what another one has learnt: TSF-Seq2Seq's fusion, from a run of Seq2Seq."""

import dataclasses
from pathlib import Path

from synth3d.errors import InputError
from synth3d.frameworks import TSF, Framework
from synth3d.training.config import RunConfig
from synth3d.training.run_folder import load_run, read_config

SHAPE = ("name", "widths", "blocks", "banks", "recurrent", "faithful")
"""Of the model: what encoder and decoder follow from."""


def begun(config: RunConfig, run: Path | None, steps: int | None) -> RunConfig:
    """``config`` as it is, or for the second stage alone with encoder and decoder of ``run``.

    Without ``steps`` that has as many as it would have of the whole training.

    Raises:
        InputError: ``run`` is no finished run of TSF-Seq2Seq, or one of other sequences or of
            another shape; ``config`` is of another framework; or without a run it would freeze an
            encoder that has never learnt.
    """
    if run is None:
        _check_stages(config)
        return config
    if config.train.framework != "tsf":
        raise InputError(
            f"--from is for train.framework=tsf, which learns in two stages, not "
            f"{config.train.framework}; leave it away, or use a recipe of tsf"
        )
    before = read_config(run)
    if before.train.framework != "tsf":
        raise InputError(
            f"--from takes a run of Seq2Seq or tsf, and {run} is one of {before.train.framework}; "
            "give another run"
        )
    if differ := [
        f"{key} {_plain(there)}, here {_plain(here)}"
        for key, there, here in _shapes(before, config)
        if there != here
    ]:
        raise InputError(
            f"the run {run} has other sequences or another shape ({'; '.join(differ)}); give these "
            "settings to this run, too, or --from another one"
        )
    share, digest = 1 - config.train.options.pretrain, load_run(run).weights_sha256
    train = dataclasses.replace(
        config.train,
        start=str(run.resolve()),
        start_sha256=digest,
        steps=steps or max(1, round((share or 1) * config.train.steps)),
        tsf=dataclasses.replace(config.train.tsf, pretrain=0.0),
    )
    return dataclasses.replace(config, train=train)


def _shapes(before: RunConfig, now: RunConfig) -> list[tuple[str, object, object]]:
    """Name, value of the one and of the other of all that must be alike."""
    keys = [(key, before, now) for key in ("mode", "sources", "targets", "dim")]
    keys += [(key, before.model, now.model) for key in SHAPE]
    return [(key, getattr(one, key), getattr(other, key)) for key, one, other in keys]


def _plain(value: object) -> str:
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _check_stages(config: RunConfig) -> None:
    train = config.train
    if train.framework != "tsf" or train.start:
        return
    if train.options.pretrain == 0 and train.options.frozen:
        raise InputError(
            "train.tsf.pretrain=0 would freeze an encoder that has learnt nothing; say with --from "
            "which run of Seq2Seq to begin from, or let it learn"
        )


def take_over(framework: Framework, config: RunConfig) -> None:
    """Fill ``framework`` with what the run that ``config`` begins from has learnt, if there is one.

    Raises:
        InputError: The run is not there or not what it was.
    """
    if not config.train.start:
        return
    run = load_run(Path(config.train.start))
    if run.weights_sha256 != config.train.start_sha256:
        raise InputError(
            f"the run {run.folder} was trained anew since this one was begun from it; restore it, "
            "or choose another --name to start anew"
        )
    assert isinstance(framework, TSF)
    framework.take_over(run.framework.generator)
