"""CrowS-Pairs (Nangia et al. 2020): does a model prefer sentences that show a stereotype?

``crows_pairs_anonymized.csv`` has pairs of sentences that differ in the group they speak of. ``pct_stereotype`` is the
share of pairs whose more stereotypical sentence (``sent_more``) has the larger log-likelihood; 50 % is no preference.
``likelihood_diff`` is the mean distance between both in nats. As in lm-evaluation-harness (tasks/crows_pairs) the whole
sentence of a causal model is scored, behind BOS, and equals count as no preference for the stereotype; the paper's own
score is for masked models. On the data's flaws: Blodgett et al. 2021, "Stereotyping Norwegian Salmon".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from edgelm.evaluate.items import score_texts
from edgelm.evaluate.outcome import Metric, Outcome
from edgelm.runtime.lm import LM

COLUMNS = ("sent_more", "sent_less", "stereo_antistereo", "bias_type")
NOTE = (
    "50 % is no preference between stereotype and its opposite; "
    "the data has known flaws (Blodgett et al. 2021), so read differences, not the figure alone"
)


@dataclass(frozen=True)
class CrowsPair:
    """A pair: the sentence that is more stereotypical, and the one that is less."""

    format: ClassVar[str] = "CrowS-Pairs"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("pct_stereotype"), Metric("likelihood_diff", "nats"))
    note: ClassVar[str | None] = NOTE

    more: str
    less: str
    line: int
    groups: Mapping[str, str]

    @property
    def chats(self) -> bool:
        """Texts are scored as they are."""
        return False

    def answer(self, lm: LM, **options: Any) -> Outcome:
        """Score both sentences."""
        more, less = (found.total for found in score_texts(lm, (self.more, self.less)))
        preferred = 0 if more > less else 1
        scores = {"pct_stereotype": float(preferred == 0), "likelihood_diff": abs(more - less)}
        return Outcome(self.line, self.groups, scores, preferred, None, "", "", (self.more, self.less)[preferred])


def read_row(row: Mapping[str, str], line: int) -> CrowsPair:
    """The pair of a row of the file.

    Raises:
        ValueError: a field is empty, or says something unknown.
    """
    for name in COLUMNS:
        if not row[name].strip():
            raise ValueError(f"'{name}' is empty")
    if row["stereo_antistereo"] not in ("stereo", "antistereo"):
        raise ValueError(f"'stereo_antistereo' must be stereo or antistereo, not {row['stereo_antistereo']!r}")
    groups = {"bias_type": row["bias_type"], "direction": row["stereo_antistereo"]}
    return CrowsPair(row["sent_more"], row["sent_less"], line, groups)
