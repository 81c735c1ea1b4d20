"""docs/extending.md is done as it is written: its files, its edits and its commands, in a copy."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "extending.md").read_text("utf-8")
BLOCK = re.compile(r"^```(python|toml|diff|sh)\n(.*?)^```$", re.M | re.S)

SMALL = shlex.split(
    "--device cpu --threads 1 --set model.widths=[4,8] --set model.blocks=1 --set model.groups=2 "
    "--set model.stages=2 --set data.patch=[16,16,16] --set data.overlap=[0,0,0] "
    "--set data.batch=2 --set data.queue=8 --set data.validation_cases=1"
)
CRITIC = ["--set", "train.pix2pix.critic_width=4", "--set", "train.pix2pix.critic_layers=2"]
"""What the commands get on top, so that they take seconds."""

RUN_ALL = """
import json, sys
from synth3d.cli import main
for line in json.load(sys.stdin):
    print("$ " + " ".join(line), flush=True)
    code = main(line)
    if code:
        sys.exit(f"exit code {code}: {line}")
"""

JUDGE = """
import json, sys
sys.path.append(sys.argv[1])
from conftest import FakeMachines, request
from seg_eval.arms import help_on_arms
from seg_eval.evaluation import evaluate
assert evaluate(request(*json.load(sys.stdin)), FakeMachines().engines()).code == 0
print(help_on_arms())
"""
"""`seg_eval run` with stand-ins for the heavy work, of which the phantoms are one."""


def sections() -> dict[str, str]:
    """Title of each chapter → its text."""
    _, *parts = re.split(r"^## (.*)$", TEXT, flags=re.M)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def named_blocks(*kinds: str) -> list[tuple[str, str]]:
    """(file, text) of the blocks of these kinds; the first line of each names its file."""
    found = []
    for kind, text in BLOCK.findall(TEXT):
        if kind in kinds:
            first, rest = text.split("\n", 1)
            assert first.startswith("# "), f"a {kind} block that names no file: {first}"
            found.append((first.removeprefix("# "), rest))
    return found


def apply(difference: str, text: str) -> str:
    """``text`` with the hunks of ``difference`` done; each must fit in exactly one place."""
    for hunk in difference.split("@@\n"):
        lines = hunk.splitlines()
        assert lines
        assert {line[:1] for line in lines if line} <= {" ", "+", "-"}
        old = "".join(f"{line[1:]}\n" for line in lines if line.startswith((" ", "-")))
        new = "".join(f"{line[1:]}\n" for line in lines if line.startswith((" ", "+")))
        assert text.count(old) == 1, f"this part of an edit fits {text.count(old)} times:\n{old}"
        text = text.replace(old, new)
    return text


def commands(title: str) -> list[list[str]]:
    """The commands of a chapter, in words."""
    blocks = [text for kind, text in BLOCK.findall(sections()[title]) if kind == "sh"]
    return [shlex.split(line) for text in blocks for line in text.splitlines()]


def shrunk(words: list[str], whole: bool = False) -> list[str]:
    """The arguments of ``synth3d`` for a command, on small phantoms and for few steps."""
    program, name, *rest = words
    assert program == "synth3d"
    if name in ("train", "ablate") and "--data" not in rest:
        rest = [*rest, "--data", "work/phantom"]
    if name == "train":
        rest = [*rest, *SMALL, "--steps", "4", *([] if "--framework" in rest else CRITIC)]
    if name == "ablate":
        rest = [*rest, *SMALL, *CRITIC, *([] if whole else ["--dry-run"])]
        if "--budget" in rest:
            rest[rest.index("--budget") + 1] = "4"
    return [name, *rest]


def extend(folder: Path, cohort: Path) -> None:
    """A copy of our code in ``folder`` with all that the page says, and cohorts beside it."""
    for package in ("synth3d", "seg_eval"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__py*"))
    own = "tests/synth3d/frameworks"
    (folder / own).mkdir(parents=True)
    fixtures = [f"{part}/conftest.py" for part in ("tests", "tests/synth3d", own)]
    for name in ("pyproject.toml", *fixtures, f"{own}/test_cells.py"):
        shutil.copy(ROOT / name, folder / name)
    for name, text in named_blocks("python", "toml"):
        assert not (folder / name).exists()
        (folder / name).write_text(text, "utf-8")
    for name, text in named_blocks("diff"):
        path = folder / name
        path.write_text(apply(text, path.read_text("utf-8")), "utf-8")
    (folder / "work").mkdir()
    (folder / "work" / "phantom").symlink_to(cohort)
    scans = {"t1n": "pre", "t1c": "gad", "t2w": "t2", "t2f": "fl", "seg": "mask"}
    clinic = {"t1n": "t1", "t1c": "t1ce", "t2w": "t2", "t2f": "flair", "seg": "seg"}
    (folder / "clinic").mkdir()
    cases = sorted(path for path in cohort.iterdir() if path.is_dir())
    for index, case in enumerate(cases, start=1):
        own = folder / "scans" / f"patient{index}"
        own.mkdir(parents=True)
        for role, file in scans.items():
            (own / f"{file}.nii.gz").symlink_to(case / f"{case.name}-{role}.nii.gz")
        visit = f"mr{index // 2:04d}v{index % 2 + 1}"
        for role, file in clinic.items():
            image = case / f"{case.name}-{role}.nii.gz"
            (folder / "clinic" / f"{visit}.{file}.nii.gz").symlink_to(image)


def run(folder: Path, *command: str, text: str = "") -> str:
    """What a program of this interpreter prints in ``folder``, with its copy of synth3d."""
    path = os.pathsep.join([str(folder), str(ROOT)])  # the other packages are those of this tree
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=env, input=text, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def extended(phantom_cohort, tmp_path_factory) -> tuple[Path, str]:
    """The folder after all commands but whole ablations and tests, and what they printed."""
    folder = tmp_path_factory.mktemp("extended")
    extend(folder, phantom_cohort)
    lines = []
    for title in sections():
        for words in commands(title):
            if words[0] == "python":
                if words[1] != "-m":
                    run(folder, *words[1:])
            elif words[0] == "synth3d" and ("--dry-run" in words or words[1] != "ablate"):
                lines.append(shrunk(words))
    return folder, run(folder, "-c", RUN_ALL, text=json.dumps(lines))


def output(extended: tuple[Path, str], begin: str) -> str:
    """What the command that begins with these words printed."""
    parts = [part for part in extended[1].split("\n$ ") if part.startswith(begin)]
    assert len(parts) == 1, f"{len(parts)} commands begin with {begin}"
    return parts[0]


def test_every_block_is_tried():
    shown = TEXT.count("\n```text\n")
    assert TEXT.count("\n```") == 2 * (shown + len(BLOCK.findall(TEXT)))
    titles = {"A generator", "A framework", "A dataset", "An experiment", "An arm"}
    assert set(sections()) == titles
    assert all(commands(title) for title in sections())


def test_every_command_runs_in_the_copy(extended):
    folder, printed = extended
    lines = [line for line in printed.splitlines() if line.startswith("$ ")]
    page = [words for title in sections() for words in commands(title) if words[0] == "synth3d"]
    whole = [words for words in page if words[1] == "ablate" and "--dry-run" not in words]
    assert len(lines) == len(page) - len(whole)
    origin = run(folder, "-c", "import synth3d; print(synth3d.__file__)")
    assert Path(origin.strip()).is_relative_to(folder)


@pytest.mark.parametrize(
    ("name", "terms"),
    [("plain", {"l1"}), ("huber", {"huber"}), ("clinic", {"l1"})],
)
def test_the_runs_of_the_page_finish_with_finite_losses(extended, name, terms):
    run_folder = extended[0] / "work" / "runs" / name
    assert json.loads((run_folder / "done.json").read_text())["finished"]
    log = [json.loads(line) for line in (run_folder / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in log if "loss" in line]
    assert losses
    for loss in losses:
        assert terms <= set(loss)
        assert all(abs(value) < 1e6 for value in loss.values())


def test_the_runs_use_what_was_added(extended):
    folder = extended[0] / "work" / "runs"
    read = {name: json.loads((folder / name / "config.json").read_text())
            for name in ("plain", "huber")}  # fmt: skip
    assert len([*(extended[0] / "work" / "completed").rglob("*-t2f.nii.gz")]) == 6
    assert read["plain"]["model"]["name"] == "plain"
    assert read["huber"]["train"]["framework"] == "huber"
    assert read["huber"]["train"]["huber"] == {"weight": 100.0, "delta": 0.05}


def test_a_dataset_is_read_without_code_and_one_with_its_own_naming_written_too(extended):
    for command, said in (
        ("audit scans", ("6 cases", "nnU-Net")),
        ("audit clinic", ("6 cases", "4 patients", "clinic")),
    ):
        assert all(text in output(extended, command) for text in said)
    made = sorted(p.name for p in (extended[0] / "completed").rglob("*.flair.nii.gz"))
    assert made == [f"mr{i // 2:04d}v{i % 2 + 1}.flair.nii.gz" for i in range(1, 7)]


def test_the_tables_are_planned(extended):
    assert "2 of 2 cells" in output(extended, "ablate gates.toml")
    assert "dropout-0.4-seed1" in output(extended, "ablate dropout")
    assert "huber-agi-net-seed0" in output(extended, "ablate frameworks")


def test_the_arms_stand_in_every_table(extended):
    """With nothing else told of them: in the help, in what is trained, in the summary."""
    (words,) = commands("An arm")
    assert words[:2] == ["seg_eval", "run"]
    asked = [*words[2:], "--work", "judged", "--name", "toy", "--threads", "1"]
    fixtures = str(ROOT / "tests" / "seg_eval")
    printed = run(extended[0], "-c", JUDGE, fixtures, text=json.dumps(asked))
    folder = extended[0] / "judged" / "eval" / "toy"
    summary = json.loads((folder / "summary.json").read_text())
    arms = {arm["name"]: arm["group"] for arm in summary["arms"]}
    assert arms.items() >= {"average": "naive", "sieve": "rival"}.items()
    assert re.search(r"ridge, average, .*\(together: default\) and .*sieve.*rivals", printed)
    assert {"segmenter frozen", "segmenter sieve"} <= summary["seconds"].keys()
    assert summary["notes"]["average"] == "the mean of t1n, t1c, t2w"
    assert summary["notes"]["average"] in (folder / "report.md").read_text()
    assert set(summary["images"]) == {"copy", "average"}
    rows = (folder / "results.csv").read_text().splitlines()[1:]
    assert {row.split(",")[2] for row in rows} == arms.keys()


@pytest.mark.slow
@pytest.mark.parametrize(("table", "cell"), [("gates.toml", "open"), ("dropout", "dropout-0.4")])
def test_the_tables_run_to_their_end(table, cell, phantom_cohort, tmp_path):
    extend(tmp_path, phantom_cohort)
    words = next(
        each for each in commands("An experiment") if each[2] == table and "--dry-run" not in each
    )
    line = [*shrunk(words, whole=True), "--only", cell]
    run(tmp_path, "-c", RUN_ALL, text=json.dumps([line]))
    value = json.loads((tmp_path / "work/ablate" / Path(table).stem / "table.json").read_text())
    assert [found["seeds"] for found in value["cells"]] == [[0, 1], [0, 1]]


@pytest.mark.slow
@pytest.mark.parametrize("title", ["A generator", "A framework"])
def test_the_tests_of_the_page_pass(title, tmp_path, phantom_cohort):
    extend(tmp_path, phantom_cohort)
    (words,) = [each for each in commands(title) if each[:3] == ["python", "-m", "pytest"]]
    printed = run(tmp_path, *words[1:], "-q", "-p", "no:cacheprovider")
    assert re.search(r"^\d+ passed", printed, re.M)
