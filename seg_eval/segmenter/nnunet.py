"""nnU-Net v2, driven in process: train a segmenter on a prepared dataset, and predict.

In this folder no other file imports ``nnunetv2``, and this one does only inside functions; beside
it ``nnunet_plans`` does, in the planners and trainers that nnU-Net loads. No worker pools are
opened, so it runs in scripts without a main guard and inside pytest. A training is done once:
its receipt holds a digest of its inputs, a killed one goes on where it was, changed inputs start
it anew. Under ``work/<preset>/`` lie ``preprocessed``, ``results`` and ``nnunet.log``.
"""

import pickle
import resource
import shutil
import statistics
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from seg_eval.records import digest
from seg_eval.segmenter.environment import (
    fill_batch,
    may_compile,
    nnunet_environment,
    pick_device,
    tame,
    told_plainly,
)
from seg_eval.segmenter.model_folder import FINAL, ModelFolder, read_model_folder, refuse_untrusted
from seg_eval.segmenter.network_input import network_input
from seg_eval.segmenter.preprocessing import CONFIGURATION, Prepared, finished, network_digest
from seg_eval.segmenter.trust import is_ours, sealed
from synth3d.errors import InputError
from synth3d.files import lock, read_object, sha256, sweep, write_json
from synth3d.machine import seconds_of, tuned

LESS_MEMORY = "choose another GPU with cuda:N, or a smaller preset"
UNLOADABLE = (
    RuntimeError, KeyError, TypeError, ValueError, AttributeError, AssertionError, ImportError,
    EOFError, pickle.UnpicklingError,
)  # fmt: skip
"""What nnU-Net dies of at a checkpoint that is none of its own."""


def train_segmenter(
    prepared: Prepared,
    seed: int = 0,
    threads: int = 1,
    device: str = "auto",
    channel_dropout: float = 0.0,
    trust: bool = False,
) -> Path:
    """Train one segmenter, go on with a killed training, or find it done.

    On a CPU the same seed, data and thread count give the same weights, bit for bit, also after
    a kill. On a GPU, with nnU-Net's 12 augmentation processes, the same seed starts from the same
    weights and ends near by. Several seeds may be trained at once, one process and one GPU each.

    Args:
        prepared: The dataset.
        seed: Each seed has a model folder of its own.
        threads: Of torch; more than the free cores is much slower than one.
        device: As :func:`pick_device` takes it.
        channel_dropout: Probability that a training patch loses one random channel.
        trust: Take or go on with a training of somebody else's; its checkpoints are pickles.

    Returns:
        The model folder, as nnU-Net lays it out, with our ``model.json``.
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
    receipt = model / "model.json"
    if receipt.is_file() and finished(read_object(receipt), inputs):
        return _vouched(model, trust)
    with lock(prepared.root, shared=True), lock(prepared.root / "locks" / model.name):
        before = read_object(receipt) if receipt.is_file() else {}
        if finished(before, inputs):  # another process has done it since
            return _vouched(model, trust)
        if before.get("digest") != inputs:
            shutil.rmtree(model, ignore_errors=True)
        elif before:
            _vouched(model, trust)
        sweep(model)
        state = {"digest": inputs, "finished": False, "trainer": trainer, "schedule": schedule}
        write_json(receipt, sealed(state))
        planned = read_object(prepared.plans)
        named = planned | {"plans_name": plans, "schedule": schedule}
        write_json(prepared.folder / f"{plans}.json", named)
        state |= {"plans_sha256": sha256(prepared.plans), "network_sha256": network_digest(planned)}
        chosen = pick_device(device)
        workers, compiled = 0 if chosen == "cpu" else 12, may_compile(chosen)
        log = prepared.root / "nnunet.log"
        with (
            told_plainly(f"training nnU-Net ({plans})", log, LESS_MEMORY),
            nnunet_environment(threads, log, prepared.folders, workers, compiled, seed),
        ):
            facts = _train(dataset, trainer, plans, chosen, resume=bool(before))
        facts["checkpoint_sha256"] = sha256(model / "fold_0" / FINAL)
        write_json(receipt, sealed(state | facts | {"finished": True, "device": chosen}))
    return model


def _vouched(model: Path, trust: bool) -> Path:
    """``model``, begun or finished, unless its pickles may be somebody else's."""
    said = read_object(model / "model.json")
    remembered, final = said.get("checkpoint_sha256"), model / "fold_0" / FINAL
    same = not said.get("finished") or (final.is_file() and sha256(final) == remembered)
    if not trust and not (is_ours(said) and same):
        raise InputError(
            f"the segmenter {model} is none that you trained on this machine, or it was changed, "
            "and nnU-Net's checkpoints are Python pickles, which run any code they hold; give "
            "--trust if you know where it comes from, or remove that folder to train it here"
        )
    return model


def _train(dataset: str, name: str, plans: str, device: str, resume: bool) -> dict[str, Any]:
    """Run nnU-Net's trainer to the end; what is worth remembering of it."""
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint

    trainer: Any = get_trainer_from_args(
        dataset, CONFIGURATION, 0, name, plans, resume, torch.device(device)
    )
    with tuned(trainer.device):
        trainer.initialize()
        if resume:
            maybe_load_checkpoint(trainer, True, False)
        tame(trainer)
        trainer.run_training()
    if not np.isfinite(trainer.logger.get_value("train_losses", -1)):
        raise InputError(f"nnU-Net's training diverged; lower the learning rate of {plans}")
    begin, end = (f"epoch_{side}_timestamps" for side in ("start", "end"))
    told = trainer.logger.get_value
    return {
        "seconds": round(sum(told(end, None)) - sum(told(begin, None)), 1),
        "epochs": trainer.num_epochs,
        "iterations": trainer.num_epochs * trainer.num_iterations_per_epoch,
        "parameters": sum(weight.numel() for weight in trainer.network.parameters()),
        "nnunetv2": version("nnunetv2"),
        "torch": torch.__version__,
    }


def step_seconds(prepared: Prepared, threads: int, device: str) -> tuple[float, int]:
    """Seconds of one training step of random voxels, and bytes of the most memory it had.

    A step as nnU-Net does it, on a CPU with its augmentation, which on a GPU other processes do.
    """
    preset, dataset = prepared.preset, prepared.raw.folder.name
    with (
        told_plainly("timing the segmenter", hint=LESS_MEMORY),
        nnunet_environment(threads, None, prepared.folders, int(device != "cpu")),
        tuned(device),
    ):
        import torch
        from nnunetv2.run.run_training import get_trainer_from_args

        where = torch.device(device)
        trainer: Any = get_trainer_from_args(
            dataset, CONFIGURATION, 0, preset.trainer, preset.name, False, where
        )
        trainer.initialize()
        trainer.network.train()
        rotation, flat, sides, mirrored = (
            trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        scales = trainer._get_deep_supervision_scales()
        classes = trainer.label_manager
        change = trainer.get_training_transforms(
            trainer.configuration_manager.patch_size, rotation, scales, mirrored, flat,
            regions=classes.foreground_regions if classes.has_regions else None,
        )  # fmt: skip
        image = torch.rand(trainer.num_input_channels, *map(int, sides))
        label = torch.randint(0, 4, (1, *image.shape[1:]), dtype=torch.int16)
        if device != "cpu":
            torch.cuda.reset_peak_memory_stats(where)

        def make() -> dict[str, Any]:
            made = [change(image=image, segmentation=label) for _ in range(trainer.batch_size)]
            levels = zip(*[one["segmentation"] for one in made], strict=True)
            target = [torch.stack(level) for level in levels]
            return {"data": torch.stack([one["image"] for one in made]), "target": target}

        batch = make()
        trainer.train_step(batch)  # sets up what the others have
        seconds = min(seconds_of(lambda: trainer.train_step(batch)))
        if device != "cpu":
            return seconds, torch.cuda.max_memory_allocated(where)
        seconds += statistics.median(seconds_of(make))  # it is drawn how much a patch is changed
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Segmenter:
    """A trained model, loaded once, that labels volumes in this process, without mirroring.

    Attributes:
        model: What its folder says.
        channels: Modalities in the order of the network's channels.
    """

    def __init__(self, model: Path | ModelFolder, threads: int = 1, device: str = "auto") -> None:
        """Load a trusted ``model``: it holds pickles, which :func:`open_model_folder` asks for."""
        found = model if isinstance(model, ModelFolder) else read_model_folder(model)
        self.model, self.channels, self._threads = found, found.channels, threads
        chosen = pick_device(device)
        self._device = chosen
        with (
            told_plainly("loading the segmenter", hint=LESS_MEMORY),
            nnunet_environment(threads),
            tuned(chosen),  # nnU-Net's predictor would leave cuDNN's flag on for good
        ):
            self._predictor = _load(found, chosen)
        plan = self._predictor.configuration_manager
        features = plan.network_arch_init_kwargs.get("features_per_stage", ())
        if chosen == "cpu" and features and len(plan.patch_size) == 3:
            fill_batch(self._predictor.network, features[0], plan.patch_size)
        self._codes = np.zeros(256, dtype=np.uint8)
        for painted, code in found.table.items():
            self._codes[painted] = code

    @property
    def network(self) -> Any:
        """The network, with the weights of the first fold."""
        self._predictor.network.load_state_dict(self._predictor.list_of_parameters[0])
        return self._predictor.network.eval()

    def predict(
        self, channels: Mapping[str, np.ndarray], spacing_mm: Sequence[float]
    ) -> np.ndarray:
        """Label a case by the mean of the logits of all folds: uint8 (D, H, W), BraTS 2023.

        Args:
            channels: (D, H, W) arrays by modality, as :func:`network_input` takes them, in any
                positive scale.
            spacing_mm: Voxel sides (z, y, x).
        """
        stack = network_input(channels, self.channels)
        predictor = self._predictor
        plans, configuration = predictor.plans_manager, predictor.configuration_manager
        with (
            told_plainly("segmenting", hint=LESS_MEMORY),
            nnunet_environment(self._threads),
            tuned(self._device),
        ):
            import torch
            from nnunetv2.inference import export_prediction

            properties = {"spacing": [float(side) for side in spacing_mm]}
            data, _, properties = configuration.preprocessor_class(verbose=False).run_case_npy(
                stack, None, properties, plans, configuration, predictor.dataset_json
            )
            logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data)).cpu()
            labels = export_prediction.convert_predicted_logits_to_segmentation_with_correct_shape(
                *(logits, plans, configuration, predictor.label_manager, properties),
                num_threads_torch=self._threads,
            )
        return self._codes[np.asarray(labels, dtype=np.uint8)]


def _load(model: ModelFolder, device: str) -> Any:
    """nnU-Net's predictor with all folds of ``model``; unpickles its checkpoints."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor: Any = nnUNetPredictor(
        use_mirroring=False,
        perform_everything_on_device=device != "cpu",
        device=torch.device(device),
        allow_tqdm=False,
    )
    try:
        predictor.initialize_from_trained_model_folder(
            str(model.folder), model.folds, model.checkpoint
        )
        trained = predictor.configuration_manager.configuration
    except (MemoryError, OSError):
        raise
    except UNLOADABLE as error:
        if "out of memory" in str(error):
            raise
        if "Could not find requested nnunet trainer" in str(error):
            said = (
                f"was trained with the class {str(error).split()[6]}, which nnunetv2 has not; "
                "let nnUNet_extTrainer point at the folder with its module"
            )
        else:
            first = str(error).strip().splitlines()[:1] or [type(error).__name__]
            said = f"cannot be loaded by nnunetv2 {version('nnunetv2')}: {first[0]}"
        raise InputError(f"the model {model.folder} {said}") from error
    named = predictor.plans_manager.get_configuration(model.configuration).configuration
    if trained != named:
        raise InputError(
            f"{model.folder} is named after {model.configuration}, but its checkpoint is of "
            "another configuration; name it as nnU-Net does, <Trainer>__<Plans>__<configuration>"
        )
    return predictor


def open_model_folder(
    folder: Path, trust: bool, threads: int = 1, device: str = "auto", own: Path | None = None
) -> Segmenter:
    """A segmenter from any nnU-Net v2 model folder, ``.../<Trainer>__<Plans>__<configuration>``.

    Args:
        folder: What is not finished or cannot serve is refused before anything is unpickled.
        trust: The user vouches for the folder. nnU-Net's checkpoints are pickles.
        threads: Of torch.
        device: As :func:`pick_device` takes it.
        own: The user's own work folder: a model that we trained there needs no ``trust``. Its
            model.json proves it by a seal that only this user can make on this machine
            (:mod:`seg_eval.segmenter.trust`).
    """
    model = read_model_folder(folder)
    if not refuse_untrusted(model, trust, own):
        print(
            f"note: the nnU-Net checkpoints in {folder} are Python pickles, which run any code "
            "they hold; they are loaded because you trust them"
        )
    return Segmenter(model, threads=threads, device=device)


def resample(volume: np.ndarray, spacing_mm: Sequence[float], shape: Sequence[int]) -> np.ndarray:
    """``volume`` (D, H, W) on ``shape`` voxels of the same field of view, float32.

    As nnU-Net brings images to its spacing by default: cubic, but along an axis whose voxels
    (``spacing_mm`` of z, y, x) are more than three times as long as the others' from the nearest.
    """
    with nnunet_environment(1):
        from nnunetv2.preprocessing.resampling import default_resampling

        finer = [mm * n / m for mm, n, m in zip(spacing_mm, volume.shape, shape, strict=True)]
        found = default_resampling.resample_data_or_seg_to_shape(
            volume[None].astype(np.float32),
            tuple(shape),
            tuple(spacing_mm),
            finer,
            force_separate_z=None,
        )
    return np.asarray(found[0], dtype=np.float32)
