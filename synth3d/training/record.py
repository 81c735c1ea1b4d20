"""What a run folder is told: by the first of its processes, the others write nothing."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from synth3d.cohort import Roles, Splits
from synth3d.data import Checked, Facts, Hashes, Shelf, spacing_seen
from synth3d.errors import InputError
from synth3d.files import sha256, write_json, write_text
from synth3d.images import ScalePrior
from synth3d.machine import free_bytes
from synth3d.training.board import Board
from synth3d.training.config import RunConfig
from synth3d.training.origin import Origin, check_origin, note_environment, origin_of
from synth3d.training.run_folder import (
    FORMAT,
    leave_finished,
    load_state,
    read_log,
    save_state,
    save_weights,
    write_config,
)
from synth3d.training.start import coupled_to, seen_before
from synth3d.training.trainer import Trainer
from synth3d.training.validation import draw, held_back, validate

Log = list[dict[str, Any]]

FAR = 0.01
"""Cases are named in which labels are moved to the cap in this share of the brain, or more."""
NAMED = 10
"""So many of them at the most; all stand in ``done.json``."""


class Record:
    """The folder ``run`` of a training under way.

    The first process takes up what is there, so ``trainer`` comes to the step of the last
    checkpoint; in all others nothing is read and nothing written, and ``log`` stays empty.

    Args:
        trainer: A fresh one.
        run: The run folder, which nobody else writes.
        hashes: Of the files of all cases, training and validation.
        device: As the run was asked for.

    Raises:
        InputError: What is there is of another run, or damaged.
    """

    def __init__(self, trainer: Trainer, run: Path, hashes: Hashes, device: str) -> None:
        self.trainer, self.run, self.writes = trainer, run, trainer.ranks.first
        self.log: Log = []
        self._told = not self.writes
        if self.writes:
            for path in run.glob(".partial-*"):  # of a killed process; the lock says nobody writes
                path.unlink(missing_ok=True)
            self.origin = origin_of(hashes, trainer.config, device, trainer.ranks.size)
            self.log = _resumed(trainer, run, self.origin)

    def check_room(self, shelves: Iterable[Shelf]) -> None:
        """Refuse a disk that has no room for the state, before the first step.

        A state is written beside the last one before that goes; cases of ``shelves`` that are still
        to be prepared count where they go to the same disk.

        Raises:
            InputError: As said, with what it takes and what is free.
        """
        trainer, train = self.trainer, self.trainer.config.train
        saves = -(-(train.steps - trainer.step) // train.checkpoint_every)
        is_first = not (self.run / "resume.pt").exists()
        weights = sum(each.nbytes for each in trainer.framework.generator.state_dict().values())
        takes = (2 if is_first and saves > 1 else 1) * trainer.state_bytes + weights
        there = self.run.stat().st_dev
        takes += sum(one.bytes_ahead for one in shelves
                     if one.store.folder.stat().st_dev == there)  # fmt: skip
        if takes > (free := free_bytes(self.run)):
            raise InputError(
                f"the training takes {takes / 1e6:.3g} MB on the disk of {self.run}, where "
                f"{free / 1e6:.3g} MB are free; make room there, or give a folder on a larger disk "
                "with --work"
            )

    def describe(self, splits: Splits, data_folder: Path, thick: Mapping[str, str]) -> None:
        """Write what describes the run, who is left out as ``thick`` too; now it is there."""
        if self.writes:
            write_config(self.run, self.trainer.config)
            note_environment(self.run / "environment.json", self.trainer.device)
            cohort = {"data_folder": str(data_folder.resolve()), "train": splits.train}
            cohort |= {"val": splits.val, "test": splits.test}
            cohort |= {"left_out_thick": dict(thick)} if thick else {}
            if start := self.trainer.config.train.start:
                cohort["seen_before"] = seen_before(Path(start))
            if segmenters := coupled_to(self.trainer.config):
                cohort["coupled"] = segmenters
            write_json(self.run / "cohort.json", cohort)
            self.board = Board(self.run, self.trainer.step)

    def describe_cases(self, shelf: Shelf) -> None:
        """Write what is learnt of the training cases beside weights, once all are known."""
        if self._told or len(shelf.facts) < len(shelf):
            return
        facts = [shelf.facts[number] for number in range(len(shelf))]
        write_json(self.run / "scales.json", ScalePrior([each.scales for each in facts]).to_list())
        roles = Roles.learn([each.looks for each in facts], self.trainer.config.task.guides)
        if roles.silent:
            print("note: too few training cases to learn what exchanged sequences would look like")
        write_json(self.run / "roles.json", roles.to_dict())
        self._told = True

    def checkpoint(self, check: Checked) -> None:
        """Validate when it is time, in all processes, then save."""
        train, step = self.trainer.config.train, self.trainer.step
        before = max(0, step - train.checkpoint_every)
        due = step // train.validate_every > before // train.validate_every
        if due or step == train.steps:
            self.look(check)
        self.save()

    def save(self) -> None:
        """Log and state, each in one piece; nothing before the first step."""
        trainer, run = self.trainer, self.run
        trainer.ranks.check_alike(trainer.framework)
        if not self.writes or trainer.step == 0:
            return
        write_text(run / "log.jsonl", "".join(json.dumps(line) + "\n" for line in self.log))
        note_environment(run / "environment.json", trainer.device, same=True)  # it has rolled
        save_state(run / "resume.pt", {"origin": self.origin.plain(), "trainer": trainer.state()})
        self.board.add(self.log)

    def look(self, check: Checked) -> None:
        """Validate, in all processes together, note it, and draw."""
        scores, first = validate(self.trainer, check)
        text = "  ".join(f"{name} {value:.4g}" for name, value in scores.items())
        print(f"step {self.trainer.step}: validation {text}")
        if self.writes:
            self.log.append({"step": self.trainer.step, "validation": scores})
            assert first is not None
            draw(self.trainer.config, self.run, self.log, check[0], first)

    @property
    def looked(self) -> bool:
        """Whether this step's validation is noted; the same in all processes."""
        at = self.trainer.step
        return self.trainer.ranks.once(
            lambda: any("validation" in line and line["step"] == at for line in self.log)
        )

    def remarks(self, shelf: Shelf) -> tuple[list[str], dict[str, float]]:
        """What is to be said of a training that has ended, by its log; and of its cases, by name.

        That is the share of the brain in which the label is moved as far as it may be, where it is
        in ``FAR`` of it or more. No score has to do with it.
        """
        told = self.trainer.framework.remarks([x["loss"] for x in self.log if "loss" in x])
        shares = held_back(self.trainer, shelf) if told else {}
        if far := sorted((n for n in shares if shares[n] >= FAR), key=lambda n: -shares[n]):
            more = f" and {len(far) - NAMED} more" if len(far) > NAMED else ""
            named = ", ".join(f"{name} ({shares[name]:.1%})" for name in far[:NAMED])
            told.append(f"moved so far in a share of the brain: {named}{more}")
        return told, {name: round(shares[name], 4) for name in far}

    def finish(
        self, shelf: Shelf, data_folder: Path, remarks: tuple[list[str], dict[str, float]]
    ) -> None:
        """Weights, then ``done.json``; the state stays, for whoever wants more steps."""
        if not self.writes:
            return
        trainer, run = self.trainer, self.run
        self.board.add(self.log)
        self.board.close()
        weights = run / "weights.safetensors"
        with trainer.averaged():
            save_weights(weights, trainer.framework.generator)
        kept = {name: run / f"{name}.safetensors" for name in trainer.framework.beside}
        for name, path in kept.items():
            save_weights(path, trainer.framework.beside[name])
        for text in remarks[0]:
            print(f"note: {text}")
        seconds = (sum(line.get("seconds", {}).values()) for line in self.log)
        done = {
            "finished": True,
            "format": FORMAT,
            "sources": trainer.config.sources,
            "targets": trainer.config.targets,
            "data_folder": str(data_folder.resolve()),
            "steps": trainer.step,
            "weights_sha256": sha256(weights),
            "scales_sha256": sha256(run / "scales.json"),
            **{f"{name}_sha256": sha256(path) for name, path in kept.items()},
            "validation": next(x["validation"] for x in self.log[::-1] if "validation" in x),
            "seconds": round(sum(seconds), 1),
            **_heads(shelf.facts.values(), trainer.config),
            **({"moved_to_the_cap": remarks[1]} if remarks[1] else {}),
        }
        write_json(run / "done.json", done)
        leave_finished(run)


def _heads(cases: Iterable[Facts], config: RunConfig) -> dict[str, Any]:
    """Orientations and voxel sizes trained on, and with skulls or without; others are strange."""
    cases = list(cases)
    seen = [spacing_seen(case.own, config.task, config.data) for case in cases]
    spacings = {tuple(round(mm, 3) for mm in spacing) for spacing in seen}
    return {
        "orientations": sorted({case.own.orientation for case in cases}),
        "spacings_mm": sorted(spacings),
        "with_skulls": 2 * sum(case.skull for case in cases) > len(cases),
    }


def _resumed(trainer: Trainer, run: Path, origin: Origin) -> Log:
    """Load the state of a run under way, if there is one; the log so far. Writes nothing."""
    path = run / "resume.pt"
    if not path.exists():
        return []
    state = load_state(path)
    try:
        check_origin(state["origin"], origin, run)
        trainer.load(state["trainer"])
        if trainer.step == 0:
            raise ValueError("it is of step 0")
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise InputError(
            f"{path} belongs to another version or model ({reason}); remove it to start anew"
        ) from error
    print(f"going on at step {trainer.step} of {trainer.config.train.steps}")
    return [line for line in read_log(run / "log.jsonl") if line["step"] <= trainer.step]
