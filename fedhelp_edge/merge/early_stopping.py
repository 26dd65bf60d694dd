"""When a federation stops early, and which of its models is best: one rule for the coordinator and for the lab.

What a site reports about itself is a claim. Each site therefore has one vote, however many images it claims: whether
the model got better *there*. Figures of different sites are never added up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

ValidationCounts = Mapping[str, Sequence[int]]  # by site: validation images, and those that the model got right


def has_plateaued(reports: Sequence[ValidationCounts], patience: int) -> bool:
    """Whether more than half of the sites of the last round saw no better model in the last `patience` rounds.

    Sites that report nothing, or have nothing to compare with, count as still improving. A patience of 0 never stops.
    """
    if not patience or len(reports) <= patience:
        return False
    earlier, recent = reports[:-patience], reports[-patience:]
    votes = [_has_plateaued(_accuracies(earlier, site), _accuracies(recent, site)) for site in reports[-1]]
    return 2 * sum(votes) > len(votes)


def best(reports: Sequence[ValidationCounts]) -> int:
    """The index of the best of some models, by what sites reported of each; the first where there is none.

    A later model takes the place of the best so far unless more sites find it worse there than find it better. So of
    models that differ for nobody the last counts, which was trained longest.
    """
    best_index = 0
    for index in range(1, len(reports)):
        if _votes(reports[index], reports[best_index]) >= 0:
            best_index = index
    return best_index


def _votes(new: ValidationCounts, old: ValidationCounts) -> int:
    """How many sites find the new model better than the old one, less those that find it worse."""
    votes = 0
    for site in new.keys() & old.keys():
        (val, correct), (old_val, old_correct) = new[site], old[site]
        difference = correct * old_val - old_correct * val  # exact; 0 without validation images
        votes += (difference > 0) - (difference < 0)
    return votes


def _has_plateaued(earlier: Sequence[float], recent: Sequence[float]) -> bool:
    return bool(earlier and recent) and max(recent) <= max(earlier)


def _accuracies(reports: Iterable[ValidationCounts], site: str) -> list[float]:
    counts = (report[site] for report in reports if site in report)
    return [correct / val for val, correct in counts if val]
