"""Settings that numerical libraries read from the environment when they are loaded.

The models run beside each other on a few cores: a BLAS or OpenMP pool as wide as the machine in
each of them costs about twice the processor time and gains nothing on such small inputs. And
onnxruntime's wheels carry telemetry that is on unless it is switched off; nothing here reports to
anyone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

SETTINGS: Mapping[str, str] = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "ORT_DISABLE_TELEMETRY": "1",
}


def configure_libraries() -> bool:
    """Set each variable that the user has not set.

    Belongs before the first import of numpy and onnxruntime. Returns False when it comes too late
    to have an effect.
    """
    for variable, value in SETTINGS.items():
        os.environ.setdefault(variable, value)
    return "numpy" not in sys.modules
