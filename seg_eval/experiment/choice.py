"""Which synthesisers an experiment judges: those named, the newest that fits, or a new one.

Of a degraded sequence these are runs that restore it and, where named, runs that fill it in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seg_eval.arms import (
    ARM_KINDS,
    Completed,
    Program,
    SynthesisRun,
    finished_runs,
    parse_completed,
    read_mean,
    read_run,
    threads_begun,
)
from seg_eval.experiment.coupled import CoupledRun, as_typed, coupled_run
from seg_eval.experiment.request import RunRequest
from synth3d.cohort import Modality, find_cases, parse_splits, patient_of
from synth3d.errors import InputError
from synth3d.runs import known_run, known_runs, trial_words


@dataclass(frozen=True)
class Choice:
    """The synthesisers that are there; else arguments of ``synth3d`` that train one first.

    ``coupled`` is one that is to be trained beside them, with its teacher.
    """

    sources: tuple[SynthesisRun | Completed, ...] = ()
    training: tuple[str, ...] = ()
    coupled: CoupledRun | None = None

    def ahead(self) -> dict[str, Sequence[str]]:
        """Of what is to be trained the command, as it is told before → arguments that are timed."""
        own = {as_typed(self.training): self.training} if self.training else {}
        return own | (self.coupled.ahead() if self.coupled else {})


def choose(request: RunRequest, missing: tuple[Modality, ...]) -> Choice:
    """What synthesises ``missing``; nothing is trained, and what does not fit is refused."""
    if not any(ARM_KINDS[kind].needs_synthesis for kind in request.kinds):
        if request.coupled is not None:
            raise InputError("--coupled trains a synthesiser, and --arms leaves out synthetic")
        return Choice()
    named = _named_runs(request, missing)
    names = [c.name for c in find_cases(request.cohort)] if request.completed else []
    folders = [parse_completed(text, names) for text in request.completed]
    if request.coupled is not None:
        return _with_coupled(request, missing, [*named, *folders])
    if named or folders:
        return Choice((*named, *folders))
    found = _newest_run(request, missing)
    return Choice((found,)) if found else Choice(training=training_of(request, missing))


def arms_ahead(request: RunRequest, choice: Choice) -> list[str]:
    """The arms that what is to be trained brings; by its kind where a run has no name yet."""
    if choice.coupled:
        return [choice.coupled.folder.name]
    if not choice.training:
        return []
    made = "synthetic" if request.degradation is None else "restored"
    return [made, *(kind for kind in request.kinds if ARM_KINDS[kind].learns_from_synthesis)]


def _with_coupled(
    request: RunRequest,
    missing: tuple[Modality, ...],
    named: Sequence[SynthesisRun | Completed],
) -> Choice:
    """Those named, and the coupled one after them."""
    learns = [kind for kind in request.kinds if ARM_KINDS[kind].learns_from_synthesis]
    if learns and not named:
        raise InputError(
            f"the arm {learns[0]} learns from out-of-fold synthesis, and the teacher of --coupled "
            "has seen the cases of every fold; name a --run that is coupled to none, which it then "
            "learns from, or leave the arm out"
        )
    runs = [source for source in named if isinstance(source, SynthesisRun)]
    asked = _asked(request, missing)
    coupled = coupled_run(request, missing, asked, runs[0] if runs else None)
    if coupled.finished:
        return Choice((*named, read_run(coupled.folder)))
    return Choice(tuple(named), coupled=coupled)


def train_synthesiser(
    request: RunRequest, missing: tuple[Modality, ...], training: Sequence[str], synth3d: Program
) -> SynthesisRun:
    """The run that ``training`` leaves, or one that has been finished meanwhile."""
    if found := _newest_run(request, missing):
        return found
    synth3d(training)
    if found := _newest_run(request, missing):
        return found
    names = " and ".join(missing)
    raise InputError(f"training left no finished run for {names} in {request.work / 'runs'}")


def _named_runs(request: RunRequest, missing: tuple[Modality, ...]) -> list[SynthesisRun]:
    """The runs of ``--run`` that fit; with several experiments a run need fit one of them."""
    runs, how = [read_mean(run, request.work) for run in request.run], request.degradation

    def fits(run: SynthesisRun, wanted: tuple[Modality, ...]) -> bool:
        made = all(run.can_make(gap) for gap in request.made_together(wanted))
        return made or (how is not None and run.can_restore(how.modality))

    for run in runs:
        if not any(fits(run, each) for each in request.wanted):
            needs = f" from {', '.join(run.sources)}" if run.sources else ""
            needs = " from the rest" if run.any_gap else needs
            made, names = ", ".join(run.targets), " and ".join(missing)
            if how is not None:
                why = f"makes {made}{needs}; it neither restores {names} nor fills it in"
                raise InputError(f"the run {run.folder} {why}")
            made = f"{made} of its thick slices" if run.restores else made
            if request.is_random:
                raise InputError(
                    f"the run {run.folder} makes {made}{needs}, not whatever a case lacks; synth3d "
                    "train --target any makes one that does"
                )
            raise InputError(f"the run {run.folder} makes {made}{needs}, not {names}")
    fitting = [run for run in runs if fits(run, missing)]
    for run in fitting:
        if told := trial_words([run.folder, *run.others]):
            print(f"warning: {told}; what is found is not what its recipe can do")
        if how and run.restores and not how.is_learnt_by(run, find_cases(request.cohort)[0]):
            told = f"{' × '.join(map(str, run.ratio))} ({run.profile})"
            print(f"note: the run {run.name} has learned to restore slices of {told}, not of these")
        if run.data_folder is None or run.data_folder.resolve() != request.cohort.resolve():
            print(f"note: the run {run.name} was trained on another folder, {run.data_folder}")
    return fitting


def _newest_run(request: RunRequest, missing: tuple[Modality, ...]) -> SynthesisRun | None:
    """The finished run that suits best; with --splits, one that has not seen its test set.

    Of a degraded sequence, one that has learned to restore these very slices.
    """
    how, cases = request.degradation, find_cases(request.cohort)

    def fits(run: SynthesisRun) -> bool:
        if how is None:
            return all(run.can_make(gap) for gap in request.made_together(missing))
        return run.can_restore(how.modality) and how.is_learnt_by(run, cases[0])

    runs = finished_runs(request.work, request.cohort, fits)
    if request.splits is not None:
        patients = {case.name: case.patient for case in cases}
        test = {patients.get(name) for name in parse_splits(request.splits).test}
        runs = [
            r for r in runs if not test & {patients.get(n, patient_of(n)) for n in r.seen_cases}
        ]
    trials = [run for run in runs if known_run(run.folder).is_trial]
    whole = [run for run in runs if run not in trials]
    _tell_passed_over(request, missing, trials)
    if not whole:
        return None
    why = f"the newest of {len(whole)} that do" if len(whole) > 1 else "the only one that does"
    print(f"synthesiser: {whole[0].folder}, which makes {whole[0].words}: {why}, of this cohort")
    return whole[0]


def _tell_passed_over(
    request: RunRequest, missing: Sequence[Modality], trials: Sequence[SynthesisRun]
) -> None:
    """Name the runs that fit and are not taken unasked: trials, and those that are not finished."""
    if trials:
        told = ", ".join(f"{run.name} ({known_run(run.folder).words})" for run in trials)
        print(f"note: not taken unless named with --run: {told}")
    for run in known_runs(request.work):
        here = run.data and Path(run.data).resolve() == request.cohort.resolve()
        if run.state in ("unfinished", "training") and here and {*missing} <= {*run.targets}:
            print(f"note: the run {run.name} is not taken, it is not finished: {run.words}")


def training_of(
    request: RunRequest,
    missing: tuple[Modality, ...],
    folder: Path | None = None,
    settings: Sequence[str] = (),
) -> tuple[str, ...]:
    """Arguments of ``synth3d`` that train a synthesiser without a name; or the run ``folder``.

    Or go on with what a killed one left there. ``settings`` are those of ``--set``.
    """
    splits = ["--splits", str(request.splits)] if request.splits else []
    threads, named = request.thread_count, [word for one in settings for word in ("--set", one)]
    if folder is not None:
        named += ["--name", folder.name]
        threads = threads_begun(folder, threads)
    work = ["--work", str(request.work), *splits, *named, "--threads", str(threads)]
    return *_asked(request, missing), *work


def _asked(request: RunRequest, missing: tuple[Modality, ...]) -> list[str]:
    """Arguments of ``synth3d`` that say what a synthesiser makes, of what, and how large it is."""
    how, asked = (
        request.degradation,
        ["--target", "any" if request.is_random else ",".join(missing)],
    )
    if how is not None:
        asked = ["--degraded", how.text]
        if how.profile != "kspace" and request.recipe is None:
            raise InputError(
                f"no finished run restores {how.modality} from slices of profile {how.profile}; "
                "train one with a recipe whose [degrade] has that profile, and name it with --run"
            )
    command = ["train", "--dim", "3d", *asked]
    command += ["--data", str(request.cohort)]
    command += ["--labels", request.labels] if request.labels else []
    recipe = request.recipe or (None if request.data else "phantom")
    return [*command, *(["--recipe", recipe] if recipe else [])]
