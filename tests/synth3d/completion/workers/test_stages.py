"""Claims about work in stages: order, overlap, three things at the most, and every way to end."""

import threading

import pytest

from synth3d.completion.workers.stages import in_stages

PATIENCE_S = 30


class Log:
    """Steps that keep a book: what was read, worked on, written and dropped, and how many at once.

    ``faults`` maps (step, item) to the exception that is raised there.
    """

    def __init__(self, faults=()):
        self.faults, self.lock = dict(faults), threading.Lock()
        self.read_, self.worked, self.written, self.dropped = [], [], [], []
        self.alive = self.most = 0

    def step(self, name, book, item):
        if (name, item) in self.faults:
            raise self.faults[name, item]
        book.append(item)

    def count(self, change):
        with self.lock:
            self.alive += change
            self.most = max(self.most, self.alive)

    def read(self, item):
        self.step("read", self.read_, item)
        self.count(1)
        return item

    def work(self, item):
        self.step("work", self.worked, item)

    def write(self, item):
        self.count(-1)
        self.step("write", self.written, item)
        return 10 * item

    def drop(self, item):
        self.count(-1)
        self.dropped.append(item)

    def run(self, items):
        return in_stages(items, self.read, self.work, self.write, self.drop)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 20])
def test_every_item_goes_through_all_steps_in_order(count):
    log = Log()
    assert list(log.run(range(count))) == [10 * item for item in range(count)]
    assert log.read_ == log.worked == log.written == list(range(count))
    assert not log.dropped
    assert log.alive == 0
    assert log.most <= 3


def test_the_next_is_read_and_the_last_is_written_while_one_is_worked_on():
    next_read, writing = threading.Event(), threading.Event()
    log = Log()

    def read(item):
        if item == 2:
            next_read.set()
        return log.read(item)

    def work(item):
        if item == 1:
            assert next_read.wait(PATIENCE_S)
            assert writing.wait(PATIENCE_S)

    def write(item):
        writing.set()
        return log.write(item)

    assert list(in_stages(range(3), read, work, write, log.drop)) == [0, 10, 20]


def test_a_slow_writer_keeps_the_others_back():
    begun, log = threading.Event(), Log()

    def write(item):
        begun.wait(0.05)
        return log.write(item)

    assert len(list(in_stages(range(8), log.read, log.work, write, log.drop))) == 8
    assert log.most == 3


@pytest.mark.parametrize("step", ["read", "work", "write"])
@pytest.mark.parametrize("fault", [OSError("gone"), KeyboardInterrupt()])
@pytest.mark.parametrize("at", [0, 2, 5])
def test_a_fault_comes_through_when_all_before_it_is_written_and_nothing_stays_held(
    step, fault, at
):
    log, got = Log({(step, at): fault}), []
    with pytest.raises(type(fault)):
        got.extend(log.run(range(6)))
    assert log.written == list(range(at))
    assert got == [10 * item for item in range(len(got))]
    assert log.alive == 0
    assert set(log.read_) <= {*log.written, *log.dropped, at if step == "write" else None}


def test_who_stops_asking_leaves_nothing_held():
    log = Log()
    steps = log.run(range(9))
    assert next(steps) == 0
    steps.close()
    assert log.alive == 0
    assert len(log.written) <= 3
