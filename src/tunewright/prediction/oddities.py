"""What is odd about what a model answers, told when all is through."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from tunewright.data import has_no_text
from tunewright.data.auditing.ledger import Cuts
from tunewright.data.wording import counted
from tunewright.types import Role, Row


class Placed(Protocol):
    """A row, or a document."""

    @property
    def where(self) -> str: ...


Item = TypeVar("Item", bound=Placed)


@dataclass
class Oddities(Generic[Item]):
    """Counts what has no text, and what is longer than the model reads."""

    is_blank: Callable[[Item], bool]
    noun: str = "row"
    num_blank: int = 0
    first_blank: str = ""
    cuts: Cuts = field(default_factory=Cuts)

    def watch(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yields the items as they come."""
        for item in items:
            if self.is_blank(item):
                self.first_blank = self.first_blank or item.where
                self.num_blank += 1
            yield item

    def notices(self) -> tuple[str, ...]:
        """Returns whole sentences, to be shown to the user."""
        if not self.num_blank:
            return self.cuts.notices(self.noun)
        more = " is the first" if self.num_blank > 1 else ""
        blank = f"{counted(self.num_blank, self.noun)} without a word answered, too: "
        return (f"{blank}{self.first_blank}{more}.", *self.cuts.notices(self.noun))


def odd_rows(roles: Sequence[Role]) -> Oddities[Row]:
    """Returns a count of rows that have these roles."""
    return Oddities(lambda row: has_no_text(row, roles))
