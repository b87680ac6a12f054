"""Writing what a command made: to standard output, or to a file that is whole or not there."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO


def write_whole(output: Path | None, render: Callable[[TextIO], object]) -> None:
    """Render to ``output``, or to standard output if it is None. Raises StoreError where it cannot be written."""
    from hwbench_mlflow.errors import StoreError

    if output is None:
        render(sys.stdout)
        return
    beside = output.with_name(f".{output.name}.part")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        try:
            with beside.open("w", encoding="utf-8", newline="") as stream:
                render(stream)
            os.replace(beside, output)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"cannot write {output}: {error.strerror or error}") from error
