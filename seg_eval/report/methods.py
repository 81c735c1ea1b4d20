"""A methods paragraph and the BibTeX of what was used, from the summary's own numbers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seg_eval.analysis import listed, spoken
from seg_eval.report.tables import list_arms, missing_names
from seg_eval.scoring import BRATS_GLIOMA, EMPTY_HD95_MM, TOLERANCE_MM

CITATIONS = {
    "isensee2021": """\
@article{isensee2021nnunet,
  author  = {Isensee, Fabian and Jaeger, Paul F. and Kohl, Simon A. A. and Petersen, Jens
             and Maier-Hein, Klaus H.},
  title   = {{nnU-Net}: a self-configuring method for deep learning-based biomedical image
             segmentation},
  journal = {Nature Methods},
  volume  = {18}, number = {2}, pages = {203--211}, year = {2021},
  doi     = {10.1038/s41592-020-01008-z}
}""",
    "menze2015": """\
@article{menze2015brats,
  author  = {Menze, Bjoern H. and Jakab, Andras and Bauer, Stefan and others},
  title   = {The Multimodal Brain Tumor Image Segmentation Benchmark ({BRATS})},
  journal = {IEEE Transactions on Medical Imaging},
  volume  = {34}, number = {10}, pages = {1993--2024}, year = {2015},
  doi     = {10.1109/TMI.2014.2377694}
}""",
    "bakas2017": """\
@article{bakas2017tcga,
  author  = {Bakas, Spyridon and Akbari, Hamed and Sotiras, Aristeidis and others},
  title   = {Advancing {The Cancer Genome Atlas} glioma {MRI} collections with expert
             segmentation labels and radiomic features},
  journal = {Scientific Data},
  volume  = {4}, pages = {170117}, year = {2017},
  doi     = {10.1038/sdata.2017.117}
}""",
    "li2023": """\
@misc{li2023brasyn,
  author = {Li, Hongwei Bran and Conte, Gian Marco and Hu, Qingqiao and others},
  title  = {The Brain Tumor Segmentation ({BraTS}) Challenge 2023: Brain {MR} Image Synthesis
            for Tumor Segmentation ({BraSyn})},
  year   = {2023}, eprint = {2305.09011}, archivePrefix = {arXiv}
}""",
    "song2024": """\
@misc{song2024aginet,
  author = {Song, Tao and Wu, Yicheng and Hu, Minhao and Luo, Xiangde and Wei, Linda
            and Wang, Guotai and Guo, Yi and Xu, Feng and Zhang, Shaoting},
  title  = {Learning Modality-Aware Representations: Adaptive Group-wise Interaction Network for
            Multimodal {MRI} Synthesis},
  year   = {2024}, eprint = {2411.14684}, archivePrefix = {arXiv}
}""",
}
"""BibTeX entries; no identifier stands here that was not looked up."""

SEGMENTER_OF = {
    "specialist": "one trained without the sequence",
    "dropout": "one trained with channels dropped at random",
    "retrained": "one trained with out-of-fold synthetic channels",
}


def methods(summary: Mapping[str, Any]) -> str:
    """The paragraph; what the summary does not say is left out."""
    parts = [_segmenter(summary), _arms(summary), _scores(summary), _statistics(summary)]
    return " ".join(part for part in parts if part)


def bibtex(summary: Mapping[str, Any]) -> str:
    """Entries of what was used: nnU-Net and the regions' source, others where the summary shows."""
    config = _dict(summary, "config")
    keys = ["isensee2021", "menze2015"]
    if "brats" in f"{config.get('data')} {config.get('train')}".lower():
        keys.append("bakas2017")
    if any("@brasyn" in name for means in _dict(summary, "images").values() for name in means):
        keys.append("li2023")
    told = " ".join(f"{arm['name']} {arm['what']} {arm['note']}" for arm in list_arms(summary))
    if "agi-net" in told.lower() or "aginet" in told.lower():
        keys.append("song2024")
    return "\n\n".join(CITATIONS[key] for key in keys)


def _segmenter(summary: Mapping[str, Any]) -> str:
    config, versions = _dict(summary, "config"), _dict(summary, "versions")
    name = spoken(missing_names(summary)) or "one MR sequence"
    text = f"We measured what a synthetic {name} is worth for brain-tumour segmentation."
    train, test = len(config.get("train") or []), len(config.get("test") or [])
    release = f" (version {versions['nnunetv2']})" if versions.get("nnunetv2") else ""
    preset = f", preset {config['preset']}," if config.get("preset") else ""
    seeds = config.get("seeds") or ([config["seed"]] if "seed" in config else [])
    named = listed([str(seed) for seed in seeds])
    times = f"{len(seeds)} times (seeds {named})" if len(seeds) > 1 else "once"
    if test and config.get("segmenter"):
        return (
            f"{text} A given nnU-Net{release} model (Isensee et al. 2021; "
            f"{Path(str(config['segmenter'])).name}) was applied, frozen, to {test} cases."
        )
    if train and test:
        patients = {r.get("patients") for r in _dict(summary, "regions").values()} - {None}
        of = f" of {max(patients)} patients" if patients else ""
        text += (
            f" An nnU-Net{release} (Isensee et al. 2021){preset} was trained {times} on the real "
            f"sequences of {train} cases, frozen, and applied to {test} other cases{of}."
        )
    return text


def _arms(summary: Mapping[str, Any]) -> str:
    arms = list_arms(summary)
    contents = [arm["name"] for arm in arms if arm["segmenter"] == "frozen"]
    if not contents:
        return ""
    text = f"Only the content of the missing channel differed between arms: {listed(contents)}."
    own = [arm for arm in arms if arm["segmenter"] != "frozen"]
    if own:
        told = [f"{a['name']} ({SEGMENTER_OF.get(a['segmenter'], 'its own')})" for a in own]
        text += f" Arms with a segmenter of their own were {listed(told)}."
    return text


def _scores(summary: Mapping[str, Any]) -> str:
    regions = list(_dict(summary, "regions"))
    if not regions:
        return ""
    text = (
        f"We report Dice of {listed(regions)} against the expert's labels and the recovered "
        "share (arm − zero) / (full − zero), a ratio of mean Dice over the same cases."
    )
    text += _other_scores(summary)
    rule = summary.get("empty_rule")
    return f"{text} Regions that a case does not have: {rule}." if rule else text


def _other_scores(summary: Mapping[str, Any]) -> str:
    """Which scores stand beside Dice, with their limits, and the voxels they were taken at."""
    rule = BRATS_GLIOMA
    sentences = {
        "hd95_mm": "HD95 (the larger of the two directed 95th percentiles of the distance between "
        f"surface voxels; {EMPTY_HD95_MM:g} mm where one mask is empty)",
        "nsd": f"normalised surface distance at a tolerance of {TOLERANCE_MM:g} mm",
        "lesion_dice": "lesion-wise Dice and HD95 by the rule of BraTS 2023 for glioma (reference "
        f"dilated by {rule.dilation_mm:g} mm, lesions up to {rule.smallest_mm3:g} mm³ left out)",
    }
    arms = [arm for region in _dict(summary, "regions").values()
            for arm in (region.get("arms") or {}).values()]  # fmt: skip
    told = [text for name, text in sentences.items()
            if any(name in (arm.get("metrics") or {}) for arm in arms)]  # fmt: skip
    sizes = list(dict.fromkeys(f"{size:g}" for size in summary.get("voxel_mm3") or []))
    text = f" Beside it stand {listed(told)}." if told else ""
    at = f" Masks were compared at the images' own voxels ({' to '.join(sizes)} mm³)."
    return text + at * bool(sizes)


def _statistics(summary: Mapping[str, Any]) -> str:
    parts = []
    bootstrap = _dict(summary, "bootstrap")
    if bootstrap:
        unit = bootstrap.get("unit", "patient")
        seeds = _dict(summary, "config").get("seeds") or []
        both = " and trainings of the segmenter" if len(seeds) > 1 else ""
        parts.append(
            f"Intervals are 95 % intervals of a paired bootstrap over {unit}s{both} with "
            f"{bootstrap.get('resamples', '?')} resamples (seed {bootstrap.get('seed', '?')})"
            + (f": {bootstrap['interval']}." if bootstrap.get("interval") else ".")
        )
    if summary.get("tests"):
        parts.append(
            "Arms were compared by Wilcoxon's signed-rank test of one value per patient, with "
            "Holm's correction over the regions and comparisons of each synthetic arm."
        )
    margins = {row.get("margin") for row in summary.get("noninferiority") or []} - {None}
    if margins:
        parts.append(
            "An arm was called non-inferior to the real sequence if the one-sided 95 % upper bound "
            f"of its mean Dice loss was below {listed(list(map(str, sorted(margins))))}."
        )
    return " ".join(parts)


def _dict(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = value.get(key)
    return found if isinstance(found, Mapping) else {}
