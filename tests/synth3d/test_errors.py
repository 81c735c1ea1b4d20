"""However a command ends, a shell sees one sentence and an exit code."""

import os
import subprocess
import sys

import pytest

from synth3d.errors import InputError, run_guarded, visible


@pytest.mark.parametrize(
    ("error", "code", "part"),
    [
        (InputError("bad"), 2, "error: bad\n"),
        (InputError("x\nerror: forged \x1b[2J"), 2, "error: x\\nerror: forged \\x1b[2J\n"),
        (OSError(28, "No space left on device"), 2, "No space left"),
        (MemoryError(), 2, "too little free memory"),
        (RecursionError(), 2, "nested too deeply"),
        (KeyboardInterrupt(), 130, "goes on where it stopped"),
        (BrokenPipeError(), 2, ""),
    ],
)  # fmt: skip
def test_every_end_has_its_code_and_one_line(capfd, error, code, part):
    def command(_):
        raise error

    assert run_guarded(command, None) == code
    said = capfd.readouterr().err
    assert part in said
    assert said.count("\n") == bool(part)


PROGRAM = """
from synth3d.errors import run_guarded
def command(_):
    print("64\\u00b3 of \\udcff\\ud800")
    for _ in range(20000): print("line")
    return 0
raise SystemExit(run_guarded(command, None))
"""


@pytest.mark.parametrize(
    ("shell", "code"),
    [
        ("PYTHONIOENCODING=ascii {} > /dev/null", 0),
        ("PYTHONIOENCODING=utf-8:strict LC_ALL=C {} > /dev/null", 0),
        ("{} >&-", 0),
        ("{} 2>&-", 0),
        ("{} >&- 2>&- <&-", 0),
        ("set -o pipefail; {} | head -1", 2),
    ],
)
def test_any_encoding_closed_streams_and_a_reader_that_leaves(tmp_path, shell, code):
    (tmp_path / "program.py").write_text(PROGRAM)
    line = shell.format(f"{sys.executable} {tmp_path / 'program.py'}")
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=os.environ)
    assert (done.returncode, done.stderr) == (code, "")


def test_what_a_terminal_would_obey_is_shown_instead():
    assert visible("\x1b]0;x\x07\r\n\u202e\u2028\udcff") == (r"\x1b]0;x\x07\r\n\u202e\u2028\udcff")
    assert visible("Größe 64³ | 脳") == "Größe 64³ | 脳"
