"""Fingerprint and planner that need one process and little memory.

nnU-Net finds planners by name only inside itself; pass these classes to its Python API
(``plan_experiment_dataset(id, MiniPlanner, overwrite_plans_name="cpu-mini")``).
"""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (
    DatasetFingerprintExtractor,
)
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import (
    ExperimentPlanner,
)
from nnunetv2.experiment_planning.experiment_planners.residual_unets import (
    residual_encoder_unet_planners,
)
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

STOCK = {
    "ExperimentPlanner": ExperimentPlanner,
    "nnUNetPlannerResEncM": residual_encoder_unet_planners.nnUNetPlannerResEncM,
}
"""nnU-Net's own planners that presets name."""
RESIDUAL = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
"""The network of nnU-Net's ResEnc presets, as plans name it."""
PER_CHANNEL = ("normalization_schemes", "use_mask_for_norm")
"""What a configuration says once per channel."""


class SmallFPE(DatasetFingerprintExtractor):
    """Fingerprint in this process from 1e5 instead of 1e8 sampled voxels (5.3 GB).

    The sample only feeds intensity statistics, which the z-score of MR channels does not use, so
    plans come out as with the stock extractor.

    Attributes:
        track: Goes through the cases; give one that shows progress.
    """

    def __init__(
        self, dataset_name_or_id: str | int, num_processes: int = 1, verbose: bool = False
    ) -> None:
        super().__init__(dataset_name_or_id, num_processes, verbose)
        self.num_foreground_voxels_for_intensitystats = 1e5
        self.track: Callable[[Sequence], Iterable] = iter

    def run(self, overwrite_existing: bool = False) -> dict[str, Any]:
        """Read every case once and write ``dataset_fingerprint.json``."""
        target = Path(nnUNet_preprocessed) / self.dataset_name / "dataset_fingerprint.json"
        if target.is_file() and not overwrite_existing:
            return json.loads(target.read_text())
        found = [self._analyse(case) for case in self.track(list(self.dataset))]
        fingerprint = summarise(found, len(self.dataset_json["channel_names"]))
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".partial")
        partial.write_text(json.dumps(fingerprint, indent=2))
        partial.replace(target)
        return fingerprint

    def _analyse(self, case: str) -> tuple:
        images, label = self.dataset[case]["images"], self.dataset[case]["label"]
        reader = determine_reader_writer_from_dataset_json(self.dataset_json, images[0], False)
        samples = int(self.num_foreground_voxels_for_intensitystats // len(self.dataset))
        try:
            return self.analyze_case(images, label, reader, samples)
        except (AssertionError, RuntimeError) as error:
            raise ValueError(f"case {case}: {error}") from error


def summarise(cases: Sequence[tuple], channels: int) -> dict[str, Any]:
    """What nnU-Net keeps in ``dataset_fingerprint.json``; a ValueError if no case has foreground.

    Args:
        cases: What ``DatasetFingerprintExtractor.analyze_case`` gives: shape after cropping
            (z, y, x), spacing in mm (z, y, x), per channel the sampled foreground intensities,
            their statistics (unused), relative size after cropping.
        channels: Number of channels.
    """
    samples = [np.concatenate([case[2][channel] for case in cases]) for channel in range(channels)]
    if not all(sample.size for sample in samples):
        raise ValueError("no case has a labelled voxel, there is nothing to learn")
    return {
        "spacings": [[float(side) for side in case[1]] for case in cases],
        "shapes_after_crop": [[int(side) for side in case[0]] for case in cases],
        "foreground_intensity_properties_per_channel": {
            str(channel): _intensity_statistics(sample) for channel, sample in enumerate(samples)
        },
        "median_relative_size_after_cropping": float(np.median([case[4] for case in cases])),
    }


def _intensity_statistics(sample: np.ndarray) -> dict[str, float]:
    low, median, high = np.percentile(sample, (0.5, 50.0, 99.5))
    values = {
        "mean": sample.mean(),
        "median": median,
        "std": sample.std(),
        "min": sample.min(),
        "max": sample.max(),
        "percentile_99_5": high,
        "percentile_00_5": low,
    }
    return {name: float(value) for name, value in values.items()}


class MiniPlanner(ExperimentPlanner):
    """nnU-Net's planner with the network of a preset in place of one that fills a GPU.

    Spacing, cropping and normalisation are planned as usual; axes are never transposed.
    """

    def __init__(
        self,
        dataset_name_or_id: str | int,
        plans_name: str = "cpu-mini",
        network: Any = None,
        **options: Any,
    ) -> None:
        """Plan for ``network``, by default that of the preset called ``plans_name``."""
        options |= {"plans_name": plans_name, "suppress_transpose": True}
        super().__init__(dataset_name_or_id, **options)
        if network is None:
            from nnunet_plans.presets import PRESETS

            network = PRESETS[plans_name].network
        self.small_network = network

    def get_plans_for_configuration(self, spacing: Any, *args: Any, **kwargs: Any) -> dict:
        """nnU-Net's plan for one configuration, made small where it is 3-D."""
        plan = super().get_plans_for_configuration(spacing, *args, **kwargs)
        if len(spacing) == 3:
            plan["patch_size"] = list(self.small_network.patch_size)
            plan["batch_size"] = self.small_network.batch_size
            architecture = plan["architecture"]
            if self.small_network.residual:
                architecture["network_class_name"] = RESIDUAL
                del architecture["arch_kwargs"]["n_conv_per_stage"]
            architecture["arch_kwargs"].update(self.small_network.arch_kwargs())
        return plan


def plan(dataset: str, preset: Any) -> None:
    """Write the plans of ``preset`` for the fingerprinted dataset called ``dataset``."""
    if preset.network is None:
        STOCK[preset.planner](dataset, plans_name=preset.name).plan_experiment()
    else:
        planner = MiniPlanner(dataset, plans_name=preset.name, network=preset.network)
        planner.plan_experiment()


def frozen_plans(
    plans: dict[str, Any], channels: Sequence[str], dataset: str, wanted: Sequence[str]
) -> dict[str, Any]:
    """``plans`` of a dataset with ``channels`` for another ``dataset`` with ``wanted`` ones.

    Patch, network, spacing and resampling stay; what is said per channel follows the channels.

    Raises:
        ValueError: A wanted channel was not planned for.
    """
    if new := [name for name in wanted if name not in channels]:
        raise ValueError(f"{', '.join(new)} is not among {', '.join(channels)}")
    order = [list(channels).index(name) for name in wanted]
    kept = json.loads(json.dumps(plans)) | {"dataset_name": dataset}
    for configuration in kept["configurations"].values():
        for key in PER_CHANNEL:
            if key in configuration:
                configuration[key] = [configuration[key][index] for index in order]
    key = "foreground_intensity_properties_per_channel"
    kept[key] = {str(place): plans[key][str(index)] for place, index in enumerate(order)}
    return kept


def run_preprocessing(
    plans_file: Path, configuration: str, dataset_json: dict[str, Any]
) -> tuple[str, Callable[[Path, Sequence[Path]], None]]:
    """nnU-Net's preprocessing without its worker pool.

    Returns:
        The name of the folder that nnU-Net looks for the data in, and a function of the target
        (a path without ending) and the case's images and label that preprocesses one case.
    """
    plans = PlansManager(str(plans_file))
    chosen = plans.get_configuration(configuration)
    preprocessor = chosen.preprocessor_class(verbose=False)

    def run(target: Path, files: Sequence[Path]) -> None:
        *images, label = map(str, files)
        preprocessor.run_case_save(str(target), images, label, plans, chosen, dataset_json)

    return chosen.data_identifier, run
