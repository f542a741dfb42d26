"""Memory that a training gives back and takes again in every step stays with its process."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
"""What mallopt(3) calls the settings of glibc."""


def keep_memory() -> bool:
    """Let this process keep what it frees; whether its C library can.

    glibc maps large blocks anew each time, and the kernel then clears them page by page: 30,000 faults and 5 to 8 % of
    a step of MiniLM. The process holds its peak until it ends.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, (1 << 31) - 1), (_TOP_PAD, 64 << 20))
    return all(mallopt(which, value) == 1 for which, value in settings)
