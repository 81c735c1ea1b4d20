"""nnU-Net, trained here or brought."""

from seg_eval.segmenter.cost import STOCK_TOTAL, SegmenterCost, cost_of, iterations_of
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
from seg_eval.segmenter.training import Training, seems_trained, segmenters_folder, train

__all__ = [
    "BEST", "CONFIGURATION", "ExportRequest", "FINAL", "RawPlan", "RawRequest", "STOCK_TOTAL",
    "Segmenter", "SegmenterCost", "Training", "consecutive_codes", "cost_of", "dataset_folder",
    "export_lines", "export_segmenter", "iterations_of", "make_room", "open_model_folder", "paths",
    "plan_raw_dataset", "prepare", "read_model_folder", "refuse_unfit", "refuse_untrusted",
    "resample", "seems_trained", "segmenters_folder", "train", "train_segmenter",
    "write_description", "write_planned", "write_raw_dataset",
]  # fmt: skip
