"""What limits a choice of layers to leave out of 2:4 and INT8, in words for the verdict and the terminal."""

from __future__ import annotations

from typing import Any

from gpusq.reports.accuracy_limits import nothing_to_lose, unit_of


def choice_cautions(result: dict[str, Any]) -> list[str]:
    """Sentences about a sensitivity.json; empty where the drop asked for was judged as asked.

    One where the judging images could not resolve `max_drop`, so that a larger limit was taken; one where the dense
    model's metric is nearly zero, so that no loss means anything.
    """
    asked, resolved, metric = result["max_drop"], result["resolution"], result["metric"]
    found = []
    if resolved > asked:
        found.append(
            f"the layers to keep were chosen for a drop of at most {resolved:.2f} points, not the {asked:g} asked for: "
            f"the {unit_of(metric)} that judged cannot resolve less; only the verdict holds {asked:g}"
        )
    if empty := nothing_to_lose(metric, result["dense"]):
        found.append(f"sensitivity: {empty[0].lower()}{empty[1:-1]}, and no block can show a loss")
    return found
