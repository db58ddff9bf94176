"""What is odd about the rows that a model answers, told when they are through."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from tunewright.data import has_no_text
from tunewright.data.ledger import Cuts
from tunewright.data.wording import counted
from tunewright.types import Role, Row


@dataclass
class Oddities:
    """Counts the rows without a text, and those that are longer than the model reads."""

    roles: Sequence[Role]
    num_blank: int = 0
    first_blank: str = ""
    cuts: Cuts = field(default_factory=Cuts)

    def watch(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Yields the rows as they come."""
        for row in rows:
            if has_no_text(row, self.roles):
                self.first_blank = self.first_blank or row.where
                self.num_blank += 1
            yield row

    def notices(self) -> tuple[str, ...]:
        """Returns whole sentences, to be shown to the user."""
        blank = f"{counted(self.num_blank, 'row')} without a text answered, too: {self.first_blank}"
        more = " is the first." if self.num_blank > 1 else "."
        return (*((blank + more,) if self.num_blank else ()), *self.cuts.notices())
