"""The rows of a coupling: what a training step costs once a segmenter looks at its images."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cuda_ops.bench import Result, Row, Setting, compare, summary, take
from synth3d.frameworks import CouplingOptions
from synth3d.losses import FORMAT, Architecture, network_of, save_segmenter
from synth3d.settings import parse, to_plain
from synth3d.training import RunConfig, Trainer, random_batch, read_recipe

RECIPE = "cpu"
TERMS = (("features",), ("label",), ("features", "label", "answer"))
SEGMENTER = Architecture(
    "PlainConvUNet", (12, 24, 48, 64), ((3, 3, 3),) * 4, ((1, 1, 1), *((2, 2, 2),) * 3),
    (2,) * 4, (1,) * 3, True, 1e-5, True, "LeakyReLU",
)  # fmt: skip
"""That of the preset ``cpu-small``."""
HEADS = ((1, 2, 3), (1, 3), (3,))


def coupling_rows() -> Iterator[Row]:
    """A training step at the size of the recipe, coupled by some terms, over one that is not."""
    config: RunConfig = parse(RunConfig, read_recipe(RECIPE))
    sides = "×".join(map(str, config.data.patch))
    shape = f"{config.dim}-D {'-'.join(map(str, config.model.widths))}, {sides}"
    for terms in TERMS:
        yield Row(
            f"coupled/{'+'.join(terms)}/fp32", f"{shape}, B={config.data.batch}",
            partial(_cost, config=config, terms=terms), "fp32", "channels_last",
            candidate="coupled", baseline="alone",
        )  # fmt: skip


def _cost(row: Row, setting: Setting, config: RunConfig, terms: tuple[str, ...]) -> list[Result]:
    with tempfile.TemporaryDirectory() as folder:
        weights: dict[str, Any] = dict.fromkeys(terms, 1.0)
        coupling = CouplingOptions(segmenter=folder, **weights)
        _write_segmenter(Path(folder), config)
        train = replace(config.train, framework="l1")
        alone = replace(config, train=train)
        coupled = replace(config, train=replace(train, coupling=coupling))
        calls = {name: step_of(one) for name, one in (("coupled", coupled), ("alone", alone))}
    taken = take(setting, calls)
    ratio = compare(taken["coupled"], taken["alone"])
    said = {"value": ratio.median, "lowest": ratio.lowest, "of_minima": ratio.of_minima}
    return [row.result(**said, rounds=setting.rounds, seconds=summary(taken))]


def _write_segmenter(folder: Path, config: RunConfig) -> None:
    """One that nobody has trained, which costs as much."""
    channels = (*config.sources, *config.targets)
    said = {
        "format": FORMAT, "architecture": to_plain(SEGMENTER), "channels": channels,
        "normalisation": ["ZScoreNormalization"] * len(channels), "masked": True,
        "spacing_mm": [1.0] * 3, "patch": [48] * 3, "regions": True, "heads": HEADS,
        "checkpoint_sha256": "",
    }  # fmt: skip
    save_segmenter(folder, said, network_of(SEGMENTER, len(channels), len(HEADS)))


def step_of(config: RunConfig) -> Callable[[], object]:
    """A step of a run's training on random voxels, ready to be repeated."""
    trainer, batch = Trainer(config, torch.device("cpu")), random_batch(config)

    def step() -> object:
        trainer.step = 0
        return trainer.advance(batch)

    return step
