"""Children that do not outlive the run, whatever becomes of it: not a killed one, and not one that is frozen itself."""

import ctypes
import signal
import sys
from typing import Final

PR_SET_PDEATHSIG: Final = 1
"""prctl(2): the signal that the kernel sends us when whoever started us dies."""


def die_with_parent() -> None:
    """Have this process killed when its parent ends; elsewhere than on Linux, nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
