"""``hwbench compare --aa``: the false-alarm rate of comparisons, from what was published. Wiring only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TextIO


def alarms(  # noqa: PLR0917 -- passed on from the command
    a: str | None, metric: str | None, margin: float, form: str, output: Path | None, published: Path, db: Path
) -> None:
    """Measure it and write it. Raises StoreError where no configuration has eight runs."""
    from hwbench_mlflow.cli.choices import warn_if_stale, with_commits
    from hwbench_mlflow.cli.output import write_whole
    from hwbench_mlflow.decide import alarms as aa
    from hwbench_mlflow.decide.selectors import parse
    from hwbench_mlflow.errors import StoreError
    from hwbench_mlflow.reports import comparison
    from hwbench_mlflow.warehouse.pairs import histories, open_for

    side = None if a is None else with_commits(parse(a))
    with open_for(published, [] if side is None else [side], metric) as found:
        known = histories(found, side, metric)
        stale = found.stale_against(db)
    warn_if_stale(stale)
    result = aa.alarms(known, margin=margin)
    if result.neighbours is None:
        raise StoreError(
            f"no configuration has 8 verified runs in {published} (the most is "
            f"{max((len(h.a.values) for h in known), default=0)})",
            remedy="Measure one 8 times or more with `hwbench run`, then `hwbench sync` and `hwbench gate`",
        )

    def render(out: TextIO) -> None:
        if form == "json":
            out.write(json.dumps(comparison.alarms_document(result, margin)) + "\n")
        else:
            out.writelines(f"{line}\n" for line in comparison.alarms_text(result, margin))

    write_whole(output, render)
