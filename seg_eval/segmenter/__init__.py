"""nnU-Net, trained here or brought."""

from seg_eval.segmenter.export import ExportRequest, export_segmenter
from seg_eval.segmenter.model_folder import (
    BEST,
    FINAL,
    read_model_folder,
    refuse_unfit,
    refuse_untrusted,
)
from seg_eval.segmenter.nnunet import Segmenter, open_model_folder, resample, train_segmenter
from seg_eval.segmenter.preprocessing import CONFIGURATION, prepare
from seg_eval.segmenter.raw_dataset import (
    RawPlan,
    RawRequest,
    consecutive_codes,
    dataset_folder,
    make_room,
    plan_raw_dataset,
    write_description,
    write_planned,
    write_raw_dataset,
)
from seg_eval.segmenter.stock import export_lines, paths
from seg_eval.segmenter.training import Training, segmenters_folder, train

__all__ = [
    "BEST", "CONFIGURATION", "ExportRequest", "FINAL", "RawPlan", "RawRequest", "Segmenter",
    "Training", "consecutive_codes", "dataset_folder", "export_lines", "export_segmenter",
    "make_room", "open_model_folder", "paths", "plan_raw_dataset", "prepare", "read_model_folder",
    "refuse_unfit", "refuse_untrusted", "resample", "segmenters_folder", "train", "train_segmenter",
    "write_description", "write_planned", "write_raw_dataset",
]  # fmt: skip
