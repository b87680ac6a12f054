"""Where hwbench keeps what belongs to this machine's user: keys, caches, the browser's runtime."""

from __future__ import annotations

import os
from pathlib import Path


def default_home() -> Path:
    """``HWBENCH_HOME``, else the user's configuration directory for hwbench."""
    if configured := os.environ.get("HWBENCH_HOME"):
        return Path(configured).expanduser()
    from platformdirs import user_config_dir

    return Path(user_config_dir("hwbench"))
