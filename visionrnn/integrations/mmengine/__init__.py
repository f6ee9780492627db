"""Training and testing with mmengine's Runner: safe checkpoints, exact resume, several processes on CPUs.

Importing it registers the runner, hooks, schedulers and the optimizer constructor with mmengine. Raises MissingPackageError when mmengine
is not installed.
"""

from __future__ import annotations

import importlib.util

from visionrnn.errors import MissingPackageError

if importlib.util.find_spec("mmengine") is None:
    raise MissingPackageError("mmengine is not installed; install it with: pip install 'visionrnn[train]'")

from visionrnn.integrations.mmengine import fade_hook, pretrained  # the hook registers itself
from visionrnn.integrations.mmengine.runner import SafeRunner

__all__ = ["SafeRunner", "fade_hook", "pretrained"]
