"""`Domain`: the batches on which a part is examined, all by default and fewer for functions that promise less."""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from hypothesis.strategies import SearchStrategy

from rl4llm.batch import RolloutBatch
from rl4llm.checks import check_choice
from rl4llm.testing.strategies import rollouts


@dataclass(frozen=True)
class Domain:
    """Batches on which a part is examined.

    Each field is "any", or names the batches that remain when a kind of batch is left out. A function is examined on
    what it promises: GAE of another library may be made for responses without holes.

    Args:
        rows: "non-empty": every response has a token.
        masks: "contiguous": the tokens of a response begin in the first column and stand without a gap.
        scores: "scored": every response could be scored.
        groups: "differing": every response has a sibling, and no two responses have the same score.
    """

    rows: Literal["any", "non-empty"] = "any"
    masks: Literal["any", "contiguous"] = "any"
    scores: Literal["any", "scored"] = "any"
    groups: Literal["any", "differing"] = "any"

    def __post_init__(self) -> None:
        for field in fields(self):
            check_choice("check", ("any", NARROW[field.name]), **{field.name: getattr(self, field.name)})

    def strategy(self) -> SearchStrategy[RolloutBatch]:
        """Return a strategy that draws batches of this domain."""
        return rollouts(
            empty=self.rows == "any",
            holes=self.masks == "any",
            unscorable=self.scores == "any",
            alike=self.groups == "any",
        )

    def narrow(self) -> "Domain":
        """Return the plainest domain inside: no kind of batch that a field can leave out."""
        return Domain(**NARROW)  # type: ignore[arg-type]

    def kinds(self) -> dict[str, "Domain"]:
        """Return the domains that have one kind of batch more than the plainest, for each kind that this domain has."""
        plain: Any = self.narrow()
        return {name: replace(plain, **{name: "any"}) for name in NARROW if getattr(self, name) == "any"}


NARROW = {"rows": "non-empty", "masks": "contiguous", "scores": "scored", "groups": "differing"}

SAID = {
    "rows": "responses without tokens",
    "masks": "masks with holes or padding on the left",
    "scores": "responses that could not be scored",
    "groups": "responses without siblings, or equal scores",
}

EVERYTHING = Domain()
