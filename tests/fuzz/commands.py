"""Command lines, each run whole on the corpus with one of its files mutated."""

import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import seg_eval.cli
import synth3d.cli
from tests.fuzz.children import begin, end_of

SCRIPTS = Path(__file__).parents[2] / "scripts"
Main = Callable[[Sequence[str]], int]


def _script(name: str) -> Main:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module.main


MAINS: dict[str, Main] = {
    "synth3d": synth3d.cli.main,
    "seg_eval": seg_eval.cli.main,
    **{name: _script(name) for name in ("convert_brats_to_nnunet", "convert_nnunet_to_brats")},
}
CODES = (0, 1, 2)


@dataclass(frozen=True)
class Command:
    """A command line that reads the files of the corpus that match ``pattern``.

    ``copied`` are parts of the corpus that it goes on with in its folder for output.
    """

    pattern: str
    line: str
    share: int = 1
    copied: tuple[str, ...] = ()


COHORT = "--data {root}/cohort --splits {root}/splits.json"
TRAIN = "synth3d train --recipe {root}/recipe.json --device cpu --name run --work {out}/half "
COMPLETE = "synth3d complete --device cpu --threads 1 --missing flair --out {out}/completed "
RUN = "--run {root}/work/runs/run"
SEG_EVAL = "seg_eval run --missing flair --threads 1 --device cpu --work {out}/work --name toy "
COMMANDS = (
    Command("cohort/*/*.nii.gz", "synth3d audit {root}/cohort", 3),
    Command("cohort/*/*.nii.gz", "synth3d audit {root}/cohort --json --splits {root}/splits.json"),
    Command("cohort/*/*.nii.gz", "synth3d audit {root}/cohort --fix-headers {out}/fixed", 2),
    Command("splits.json", "synth3d audit {root}/cohort --splits {root}/splits.json"),
    Command("table.csv", "synth3d audit --cases {root}/table.csv", 2),
    Command("cohort/*/*.nii.gz", TRAIN + COHORT, 4, ("half",)),
    Command("half/runs/run/*.*", TRAIN + COHORT, 3, ("half",)),
    Command("table.csv", TRAIN + "--cases {root}/table.csv --splits {root}/splits.json"),
    Command("recipe.json", TRAIN + COHORT + " --dry-run", 2),
    Command("recipe.toml", TRAIN.replace(".json", ".toml") + COHORT + " --dry-run", 2),
    Command("few/*/*.nii.gz", COMPLETE + f"--data {{root}}/few {RUN}", 6),
    Command("few/*/*.nii.gz", COMPLETE + "--data {root}/few --plumbing", 3),
    Command("few/*/*.nii.gz", COMPLETE + f"--data {{root}}/few {RUN} --format nnunet", 2),
    Command("work/runs/run/*.*", COMPLETE + f"--data {{root}}/few {RUN}", 4),
    Command("completed/*/*", COMPLETE + f"--data {{root}}/few {RUN} --overwrite", 3,
            ("completed",)),
    Command("few/*/*.nii.gz", "synth3d score {root}/few {root}/completed --modality flair "
            "--out {out}/scores.csv", 2),
    Command("completed/*/*.nii.gz", "synth3d score {root}/few {root}/completed --modality flair",
            2),
    Command("table.toml", "synth3d ablate {root}/table.toml --recipe {root}/recipe.json "
            "--device cpu --report --work {out} " + COHORT),
    Command("cohort/*/*.nii.gz", SEG_EVAL + COHORT + f" {RUN} --dry-run", 3),
    Command("work/runs/run/*.json", SEG_EVAL + COHORT + f" {RUN} --dry-run", 2),
    Command("model/**/*.json", SEG_EVAL + COHORT + f" {RUN} --dry-run --segmenter {{root}}/model",
            2),
    Command("work/eval/toy/*.json", SEG_EVAL + COHORT + f" {RUN} --dry-run", 1, ("work",)),
    Command("work/eval/toy/*.*", "seg_eval report {out}/work/eval/toy", 3,
            ("work",)),
    Command("cohort/*/*.nii.gz", "convert_brats_to_nnunet {root}/cohort {out}/raw", 3),
    Command("dataset/dataset.json", "convert_brats_to_nnunet {root}/dataset {out}/raw"),
    Command("few/*/*_seg.nii.gz", "convert_nnunet_to_brats {root}/few/Brats18_TOY_E_1 {root}/few "
            "{out}/labels --codes 1,2,4"),
)  # fmt: skip


def copied(source: Path, target: Path) -> Path:
    """A copy of a folder at ``target``, links and pipes being what they are."""

    def keep(one: str, other: str) -> None:
        os.mkfifo(other) if Path(one).is_fifo() else shutil.copy2(one, other)

    return Path(shutil.copytree(source, target, symlinks=True, copy_function=keep))


def command(chosen: Command, root: Path, out: Path, chance: Random) -> str:
    """The fault of one command, or an empty text: it ended well, or with one sentence."""
    for part in chosen.copied:
        copied(root / part, out / part)
    program, *words = chosen.line.format(root=root, out=out).split()
    said = out.with_name("said")
    code, held = end_of(begin(lambda: MAINS[program](words), said), 30)
    text = said.read_text(errors="replace")
    line = f"{chosen.line} (of {chosen.pattern}):"
    if code is None:
        return f"{line} took longer than 30 s"
    if held > 4 * 2**30:
        return f"{line} held {held} bytes"
    last = text.strip().splitlines()[-1:] or [""]
    plain = not re.search(r"Traceback|\.py:\d+: \w*Warning", text)
    if code not in CODES or not plain or (code == 2 and not last[0].startswith("error: ")):
        return f"{line} ended with {code} and said {text[-3000:]}"
    return ""
