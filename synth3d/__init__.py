"""Synthesise the MRI sequence a case lacks, in 3-D, and write it as if it had been acquired.

``synth3d.cohort.cases`` knows the files, ``data`` makes batches of them, ``models`` and
``frameworks`` are the two halves of what is trained, ``train`` trains it, ``complete`` fills
the gap. The command line is ``synth3d``; whether the gap was worth filling is ``seg_eval``.
"""

__version__ = "0.1.0"
