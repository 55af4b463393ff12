"""A process that works on vectors of megabytes keeps memory that it has freed, up to a limit, for the next vector.

Left alone, glibc gives it back to the system, which clears every page anew when it is asked for again: more than half of the time of
many operations on a million words. Where the C library is another one, nothing changes.
"""

from __future__ import annotations

import ctypes

KEPT = 256 * 2**20  # bytes, at most
LARGEST = 32 * 2**20  # bytes of one block that may be kept; the most that glibc allows
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # <malloc.h>


def keep_freed() -> bool:
    """From now on, in this process. Whether the C library could be told."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_MMAP_THRESHOLD, LARGEST) and mallopt(_TRIM_THRESHOLD, KEPT))
