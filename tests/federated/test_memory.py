"""Freed memory is kept: the second vector of a size costs no new pages. In a process of its own, which is what it changes."""

import subprocess
import sys

PROGRAM = """
import resource
import numpy as np
from federated import memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    parts = [np.ones(400_000) for _ in range(12)]  # 3 MB each, 37 MB in all
    del parts
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

for _ in range(3):
    left_alone = faults()
told = memory.keep_freed()
for _ in range(3):
    kept = faults()
print(told, left_alone, kept)
"""


def test_pages_are_asked_for_once():
    told, left_alone, kept = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    ).stdout.split()
    assert told == "True", "this C library is glibc"
    assert int(kept) < int(left_alone) / 10, (left_alone, kept)
