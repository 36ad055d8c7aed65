"""Keeps numerical libraries from starting threads of their own.

The models run beside each other on a few cores. A BLAS or OpenMP pool as wide as the machine in
each of them costs about twice the processor time and gains nothing on such small inputs.
"""

from __future__ import annotations

import os
import sys

VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def limit_native_threads() -> bool:
    """Set each library's variable to 1 where the user has not set it.

    The libraries read them when they are loaded, so this belongs before the first import of
    numpy. Returns False when it comes too late to have an effect.
    """
    for variable in VARIABLES:
        os.environ.setdefault(variable, "1")
    return "numpy" not in sys.modules
