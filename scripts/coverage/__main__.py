"""How often the certificate's intervals hold the truth, on simulated cohorts that know it.

Four cohorts of Dice. *plain*: bounded, skewed, correlated between arms through how hard a patient
is; losses differ from patient to patient, trainings of the segmenter as a whole and from patient to
patient. *floor*: what a blank channel leaves differs from training to training, from next to
nothing to half of the Dice. *failures*: in 6 % of patients synthesis brings little. *absent*: 5 %
of patients do not have the region. ``--replicates``: the synthesiser has several trainings, too,
which differ as a whole, from patient to patient and from one segmenter to the next. ``--centres``:
half of what differs between patients differs between their centres. ``--volumes``: tumour volumes
with errors as large in all patients, with errors that grow with the tumour, with tumours missed.
``--folds``: a cross-validation, each patient judged once, by networks of its own fold.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence

import numpy as np

from scripts.coverage.cohorts import COHORTS, names_of
from scripts.coverage.decisions import decisions, not_inferior
from scripts.coverage.folds import coverage_of_folds
from scripts.coverage.held import (
    QUANTITIES,
    Tally,
    count_held,
    coverage_of_replicates,
    coverage_of_volumes,
)
from seg_eval.analysis import Question
from synth3d.scoring import FEW_CASES, Crossed

EXAMPLES = """examples:
  python -m scripts.coverage                 the first table of docs/summary-schema.md
  python -m scripts.coverage --decisions     how often each decision is taken, and wrongly
  python -m scripts.coverage --replicates    with several trainings of the synthesiser
  python -m scripts.coverage --centres       with patients of one centre alike
  python -m scripts.coverage --volumes       of tumour volumes: bias, limits, concordance
  python -m scripts.coverage --folds         of a cross-validation
  python -m scripts.coverage --trials 5      whether it runs
"""

PATIENTS, TRAININGS = (6, 8, 12, 20, 40), (1, 2, 3, 5)
REPLICATES = (1, 3), (3, 2), (3, 3), (3, 5), (5, 3)
"""Trainings of the segmenter and of each of two synthesisers."""
CENTRES = (5, 5, 5), (5,) * 6, (12, 6, 3, 2, 1), (30, 5, 5), (4,) * 10
"""Patients of each centre."""
VOLUMES = {"even": "5 mL in all", "grow": "20 % of the tumour", "missed": "5 mL, 1 of 16 missed"}
"""Errors of predicted volumes (standard deviation): which, and in words."""

FOLDED, FOLDS, FOLDS_VARY = 30, (3, 5, 10), (0.0, 0.2, 0.5, 1.0)
"""Patients of a cross-validation, folds, and the spread between the trainings of these as a share
of that between patients."""

Rows = Iterable[tuple[Sequence[str], Sequence[str]]]
"""Labels and cells of each row of a table."""


def table(trials: int) -> str:
    """The coverage of every cohort as a table in Markdown."""
    least = 1.0

    def rows() -> Rows:
        nonlocal least
        for name, cohort in COHORTS.items():
            for patients in PATIENTS:
                designs = [Crossed(names_of(patients), trainings) for trainings in TRAININGS]
                found = [count_held([design], trials, **cohort)[0] for design in designs]
                least = min([least, *(each.given["ratio"] / trials for each in found)])
                yield [name, str(patients)], [cell(each, QUANTITIES) for each in found]

    head = [f"{n} training{'s' if n > 1 else ''}" for n in TRAININGS]
    lines = markdown(["cohort", "patients"], head, rows())
    return f"{lines}\n\nA recovered share is given in {100 * least:.0f} of 100 cohorts or more."


def table_of_centres(trials: int) -> str:
    """Coverage with centres as a table in Markdown; and as if patients were independent."""

    def rows() -> Rows:
        for differ in (True, False):
            for sizes in CENTRES if differ else CENTRES[1:3]:
                where = [f"c{i}" for i in np.arange(len(sizes)).repeat(sizes)]
                names, cells = names_of(len(where)), []
                for trainings in (1, 3):
                    pair = Crossed(names, trainings, centres=where), Crossed(names, trainings)
                    held = count_held(pair, trials, centres=sizes if differ else ())
                    cells += [cell(each, QUANTITIES) for each in held]
                alike = len({*sizes}) == 1
                said = f"{len(sizes)} of {sizes[0]}" if alike else ", ".join(map(str, sizes))
                yield [said, "yes" if differ else "no"], cells

    head = [
        f"{n} training{'s' if n > 1 else ''}{told}"
        for n in (1, 3)
        for told in ("", ", centres not told")
    ]
    return markdown(["patients of each centre", "centres differ"], head, rows())


def table_of_replicates(trials: int) -> str:
    """Coverage of share / loss / lead in per cent as a table in Markdown."""

    def rows() -> Rows:
        for patients in PATIENTS:
            found = [coverage_of_replicates(patients, *each, trials) for each in REPLICATES]
            yield [str(patients)], [cell(each, ("ratio", "loss", "lead")) for each in found]

    head = [
        f"{segmenters} of the segmenter, {made} of synthesis" for segmenters, made in REPLICATES
    ]
    return markdown(["patients"], head, rows())


def table_of_volumes(trials: int) -> str:
    """Coverage of each quantity in per cent as a table in Markdown."""
    head = ["bias", "lower limit", "upper limit", "concordance"]

    def rows() -> Rows:
        for errors, said in VOLUMES.items():
            for patients in PATIENTS:
                found = coverage_of_volumes(patients, errors, trials)
                yield [said, str(patients)], [cell(found, [name]) for name in head]

    return markdown(["errors", "patients"], head, rows())


def table_of_folds(trials: int) -> str:
    """Coverage over folds, and as if patients were independent, as a table in Markdown."""

    def rows() -> Rows:
        for folds in FOLDS:
            for varies in FOLDS_VARY:
                found = coverage_of_folds(FOLDED, folds, varies, trials)
                yield (
                    [str(folds), f"{varies:g}"],
                    [cell(found[way], QUANTITIES) for way in ("folds", "patients")],
                )

    head = ["over folds", "over patients alone"]
    return markdown(["folds", "spread of trainings"], head, rows())


def table_of_decisions(trials: int) -> str:
    """Yes / no in per cent, and what is called not inferior, as tables in Markdown."""
    leads, rivals = (0.0, 0.02, 0.05), [(1, 1), (1, 4), (6, 4)]
    margin, most = Question([]).margin, [n for n in PATIENTS if n >= FEW_CASES]

    def answers() -> Rows:
        for lead in leads:
            for patients in (12, *most):
                found = [decisions(patients, lead, cheap, made, trials) for made, cheap in rivals]
                said = [f"{100 * one['yes']:.0f} / {100 * one['no']:.0f}" for one in found]
                yield [f"{lead:g}", str(patients)], said

    def calls() -> Rows:
        for loss in (margin, 0.0):
            for patients in (12, *most):
                found = [not_inferior(patients, n, loss, trials) for n in (2, 3, 5)]
                yield [f"{loss:g}", str(patients)], [f"{100 * one:.0f}" for one in found]

    head = [f"{synthetic} of synthesis, {cheap} cheap" for synthetic, cheap in rivals]
    tables = [
        markdown(["true lead", "patients"], head, answers()),
        markdown(["true loss", "patients"], [f"{n} trainings" for n in (2, 3, 5)], calls()),
    ]
    return "\n\n".join(tables)


def cell(found: "Tally | dict[str, float]", names: Sequence[str]) -> str:
    """Of 100; a dash where there is no interval in any trial."""
    shares = found.shares() if isinstance(found, Tally) else found
    return " / ".join(f"{100 * shares[name]:.0f}" if name in shares else "–" for name in names)


def markdown(labels: Sequence[str], head: Sequence[str], rows: Rows) -> str:
    """A table; each row is printed to stderr as soon as it is there."""
    lines = [f"| {' | '.join([*labels, *head])} |", "|" + "--:|" * (len(labels) + len(head))]
    for left, right in rows:
        lines.append(f"| {' | '.join([*left, *right])} |")
        print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


TABLES = {
    "decisions": table_of_decisions,
    "replicates": table_of_replicates,
    "centres": table_of_centres,
    "volumes": table_of_volumes,
    "folds": table_of_folds,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table; 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=400, help="cohorts a cell (default 400)")
    which = parser.add_mutually_exclusive_group()
    for name in TABLES:
        which.add_argument(f"--{name}", dest="make", action="store_const", const=TABLES[name],
                           default=table, help="that table instead")  # fmt: skip
    given = parser.parse_args(arguments)
    if given.trials < 1:
        parser.error(f"argument --trials: expected 1 or more, got {given.trials}")
    print(given.make(given.trials))
    errors = [200 * np.sqrt(share * (1 - share) / given.trials) for share in (0.95, 0.5)]
    print(
        f"\n{given.trials} cohorts a cell: a figure near 95 or 5 of 100 is right to "
        f"± {errors[0]:.1f}, one near 50 to ± {errors[1]:.1f} (two standard errors)."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
