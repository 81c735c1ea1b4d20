"""nnU-Net v2, driven in process: prepare a dataset, train a segmenter, predict.

The only file here that imports ``nnunetv2``, and only inside functions. No worker pools are
opened, so it runs in scripts without a main guard and inside pytest. Every stage is done once:
a receipt holds a digest of its inputs, a killed stage goes on where it was, changed inputs start
it anew. Under ``work/<preset>/`` lie ``preprocessed``, ``results`` and ``nnunet.log``.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_plans.presets import PRESETS, Preset
from seg_eval.digests import digest, marks
from seg_eval.network_input import Arrays, network_input
from seg_eval.nnunet_environment import (
    fill_batch,
    nnunet_environment,
    pick_device,
    tame,
)
from seg_eval.raw_dataset import RawDataset
from seg_eval.splits import write_nnunet_splits
from synth3d.cases import Case
from synth3d.files import InputError, lock, progress, read_json, write_json
from synth3d.volumes import read

__all__ = ["PRESETS", "Prepared", "Preset", "Segmenter", "prepare", "train_segmenter"]

CONFIGURATION = "3d_fullres"
FINAL = "checkpoint_final.pth"


@dataclass(frozen=True)
class Prepared:
    """A dataset that nnU-Net can train on.

    Attributes:
        raw: The raw dataset.
        root: ``work/<preset>``.
        preset: What was planned for.
        digest: Changes with the voxels, the split and the network.
    """

    raw: RawDataset
    root: Path
    preset: Preset
    digest: str

    @property
    def folder(self) -> Path:
        """nnU-Net's preprocessed folder of the dataset."""
        return self.root / "preprocessed" / self.raw.folder.name

    @property
    def folders(self) -> dict[str, Path]:
        """nnU-Net's three roots."""
        return {
            "raw": self.raw.folder.parent,
            "preprocessed": self.root / "preprocessed",
            "results": self.root / "results",
        }


def prepare(
    raw: RawDataset,
    work: Path,
    preset: Preset,
    train_cases: Sequence[Case],
    val_cases: Sequence[Case] = (),
    threads: int = 1,
) -> Prepared:
    """Fingerprint, plan and preprocess the training and validation cases.

    Other cases of ``raw`` are not looked at. Without validation cases the curve in nnU-Net's log
    is drawn on the training cases; the final weights do not depend on it.

    Raises:
        InputError: A case is not in ``raw`` or cannot be read by nnU-Net, a patient is on both
            sides, or another process works in the folder.
    """
    cases = [case.name for case in (*train_cases, *val_cases)]
    unknown = sorted(set(cases) - set(raw.cases))
    if unknown:
        raise InputError(f"not in the raw dataset {raw.folder.name}: {', '.join(unknown)}")
    root = work / preset.name
    with lock(root):
        receipt = root / "prepared.json"
        before = read_json(receipt) if receipt.is_file() else {}
        files = {case: raw.files[case] for case in cases}
        found = marks((path for paths in files.values() for path in paths), before.get("marks", {}))
        inputs = digest(
            {case: [found[str(path)][2] for path in paths] for case, paths in files.items()},
            raw.channels,
            asdict(preset.network) if preset.network else None,
            [[case.name for case in side] for side in (train_cases, val_cases)],
            version("nnunetv2"),
        )
        prepared = Prepared(raw, root, preset, inputs)
        state = {"digest": inputs, "finished": True, "marks": found}
        if _finished(before, inputs):
            return prepared
        if before.get("digest") != inputs:
            shutil.rmtree(prepared.folder, ignore_errors=True)
        write_json(receipt, state | {"finished": False})
        write_nnunet_splits(prepared.folder / "splits_final.json", train_cases, val_cases)
        with nnunet_environment(threads, root / "nnunet.log", prepared.folders):
            _fingerprint(prepared, cases)
            _plan(prepared)
            _preprocess(prepared, cases)
        write_json(receipt, state)
    return prepared


def _finished(receipt: dict[str, Any], inputs: str) -> bool:
    return receipt.get("digest") == inputs and receipt["finished"]


def _fingerprint(prepared: Prepared, cases: Sequence[str]) -> None:
    from nnunet_plans.planners import SmallFPE

    extractor = SmallFPE(prepared.raw.folder.name)
    extractor.dataset = {case: extractor.dataset[case] for case in cases}
    extractor.track = lambda names: _readable(prepared.raw, names)
    try:
        extractor.run()
    except ValueError as error:
        raise InputError(f"nnU-Net cannot use the dataset: {error}") from error


def _readable(raw: RawDataset, cases: Sequence[str]) -> Iterator[str]:
    """The cases one by one, each with sound images; SimpleITK would read NaN voxels as 0."""
    for case in progress(cases, "nnU-Net fingerprint", unit="case"):
        for path in raw.files[case][:-1]:
            read(path)
        yield case


def _plan(prepared: Prepared) -> None:
    """Write the plans; always anew, because nnU-Net does not write them in one piece."""
    name, network = prepared.preset.name, prepared.preset.network
    (prepared.folder / f"{name}.json").unlink(missing_ok=True)
    if network is None:
        from nnunetv2.experiment_planning.experiment_planners import default_experiment_planner

        stock = default_experiment_planner.ExperimentPlanner
        stock(prepared.raw.folder.name, plans_name=name).plan_experiment()
        return
    from nnunet_plans.planners import MiniPlanner

    MiniPlanner(prepared.raw.folder.name, plans_name=name, network=network).plan_experiment()


def _preprocess(prepared: Prepared, cases: Sequence[str]) -> None:
    """Preprocess case by case; a case is finished when its ``.pkl``, moved last, is there."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = PlansManager(str(prepared.folder / f"{prepared.preset.name}.json"))
    configuration = plans.get_configuration(CONFIGURATION)
    preprocessor = configuration.preprocessor_class(verbose=False)
    target = prepared.folder / configuration.data_identifier
    partial = prepared.folder / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    for folder in (target, partial):
        folder.mkdir(parents=True, exist_ok=True)
    dataset = read_json(prepared.folder / "dataset.json")
    for case in progress(list(cases), "nnU-Net preprocessing", unit="case"):
        if (target / f"{case}.pkl").is_file():
            continue
        *images, label = map(str, prepared.raw.files[case])
        preprocessor.run_case_save(
            str(partial / case), images, label, plans, configuration, dataset
        )
        for ending in (".b2nd", "_seg.b2nd", ".pkl"):
            (partial / f"{case}{ending}").replace(target / f"{case}{ending}")
    partial.rmdir()


def train_segmenter(
    prepared: Prepared,
    seed: int = 0,
    threads: int = 1,
    device: str = "auto",
    channel_dropout: float = 0.0,
    workers: int | None = None,
) -> Path:
    """Train one segmenter, go on with a killed training, or find it done.

    On a CPU the same seed, data and thread count give the same weights, bit for bit, also after
    a kill. The stock trainer of preset ``standard`` only has its initial weights seeded.

    Args:
        prepared: The dataset.
        seed: Each seed has a model folder of its own.
        threads: Threads of torch; more than the free cores is much slower than one.
        device: ``cpu``, ``cuda`` or ``auto`` for CUDA where there is one.
        channel_dropout: Probability that a training patch loses one random channel.
        workers: Augmentation processes; by default none on a CPU and nnU-Net's 12 on a GPU.

    Returns:
        The model folder, as nnU-Net lays it out, with our ``model.json``.

    Raises:
        InputError: Another process works in the folder.
    """
    preset = prepared.preset
    trainer = "ScheduledTrainer" if channel_dropout else preset.trainer
    schedule = dict(preset.schedule) | {"seed": seed}
    plans = f"{preset.name}-seed{seed}"
    if channel_dropout:
        schedule["channel_dropout"] = channel_dropout
        plans += f"-dropout{channel_dropout:g}"
    dataset = prepared.raw.folder.name
    model = prepared.root / "results" / dataset / f"{trainer}__{plans}__{CONFIGURATION}"
    inputs = digest(prepared.digest, trainer, schedule)
    with lock(prepared.root):
        receipt = model / "model.json"
        before = read_json(receipt) if receipt.is_file() else {}
        if _finished(before, inputs):
            return model
        if before.get("digest") != inputs:
            shutil.rmtree(model, ignore_errors=True)
        state = {"digest": inputs, "finished": False, "trainer": trainer, "schedule": schedule}
        write_json(receipt, state)
        planned = read_json(prepared.folder / f"{preset.name}.json")
        named = planned | {"plans_name": plans, "schedule": schedule}
        write_json(prepared.folder / f"{plans}.json", named)
        chosen = pick_device(device)
        if workers is None:
            workers = 0 if chosen == "cpu" else 12
        log = prepared.root / "nnunet.log"
        compiled = chosen == "cuda"
        with nnunet_environment(threads, log, prepared.folders, workers, compiled, seed):
            facts = _train(dataset, trainer, plans, chosen, resume=bool(before))
        write_json(receipt, state | facts | {"finished": True, "device": chosen})
    return model


def _train(dataset: str, name: str, plans: str, device: str, resume: bool) -> dict[str, Any]:
    """Run nnU-Net's trainer to the end; what is worth remembering of it."""
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint

    trainer: Any = get_trainer_from_args(
        dataset, CONFIGURATION, 0, name, plans, resume, torch.device(device)
    )
    trainer.initialize()
    if resume:
        maybe_load_checkpoint(trainer, True, False)
    tame(trainer)
    trainer.run_training()
    if not np.isfinite(trainer.logger.get_value("train_losses", -1)):
        raise InputError(f"nnU-Net's training diverged; lower the learning rate of {plans}")
    begin, end = (
        trainer.logger.get_value(f"epoch_{side}_timestamps", None) for side in ("start", "end")
    )
    return {
        "seconds": round(sum(end) - sum(begin), 1),
        "epochs": trainer.num_epochs,
        "iterations": trainer.num_epochs * trainer.num_iterations_per_epoch,
        "parameters": sum(weight.numel() for weight in trainer.network.parameters()),
        "nnunetv2": version("nnunetv2"),
        "torch": torch.__version__,
    }


class Segmenter:
    """A trained model, loaded once, that labels volumes in this process, without mirroring.

    Attributes:
        channels: Modalities in the order of the network's channels.
    """

    def __init__(self, model: Path, threads: int = 1, device: str = "auto") -> None:
        """Load ``model``, a folder from :func:`train_segmenter`.

        Only load models you trust: nnU-Net's checkpoints are pickles.

        Raises:
            InputError: The folder holds no finished model.
        """
        if not (model / "fold_0" / FINAL).is_file():
            raise InputError(f"{model} holds no finished nnU-Net model (no fold_0/{FINAL})")
        self._threads = threads
        with nnunet_environment(threads):
            import torch
            from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

            chosen = pick_device(device)
            self._predictor: Any = nnUNetPredictor(
                use_mirroring=False,
                perform_everything_on_device=chosen == "cuda",
                device=torch.device(chosen),
                allow_tqdm=False,
            )
            self._predictor.initialize_from_trained_model_folder(str(model), (0,), FINAL)
        if chosen == "cpu":
            plan = self._predictor.configuration_manager
            features = plan.network_arch_init_kwargs["features_per_stage"][0]
            fill_batch(self._predictor.network, features, plan.patch_size)
        names = self._predictor.dataset_json["channel_names"]
        self.channels = tuple(names[str(index)] for index in range(len(names)))

    def predict(
        self,
        channels: Arrays,
        spacing_mm: Sequence[float],
        brain: np.ndarray | None = None,
    ) -> np.ndarray:
        """Label a case.

        Args:
            channels: (D, H, W) arrays by modality, or in the order of :attr:`channels`; an
                absent modality is exact zeros. Intensities may have any positive scale.
            spacing_mm: Voxel sides (z, y, x).
            brain: Bool (D, H, W); outside, every channel is set to exactly 0.

        Returns:
            uint8 (D, H, W): 0 background, 1 necrosis, 2 oedema, 3 enhancing tumour.

        Raises:
            InputError: As :func:`seg_eval.network_input.network_input`.
        """
        stack = network_input(channels, self.channels, brain)
        predictor = self._predictor
        plans, configuration = predictor.plans_manager, predictor.configuration_manager
        with nnunet_environment(self._threads):
            import torch
            from nnunetv2.inference import export_prediction

            properties = {"spacing": [float(side) for side in spacing_mm]}
            data, _, properties = configuration.preprocessor_class(verbose=False).run_case_npy(
                stack, None, properties, plans, configuration, predictor.dataset_json
            )
            logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data)).cpu()
            labels = export_prediction.convert_predicted_logits_to_segmentation_with_correct_shape(
                logits,
                plans,
                configuration,
                predictor.label_manager,
                properties,
                num_threads_torch=self._threads,
            )
        return np.asarray(labels, dtype=np.uint8)
