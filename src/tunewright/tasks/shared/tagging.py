"""What a user is told of tagged texts: what is odd about training rows, what other libraries do
not know, and a report's tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tunewright.data.cells.tags import Scheme
from tunewright.data.wording import counted
from tunewright.errors import listed
from tunewright.figures import Table
from tunewright.metrics.entities import label_confusions, label_scores
from tunewright.metrics.spec import Statistics

MAX_SHOWN = 20  # pairs of labels in the report


@dataclass(frozen=True)
class Odd:
    """How many training rows have tags that their scheme does not allow; how many of their marks
    had blanks at an edge, and how many begin or end inside a word.
    """

    rows: int
    trimmed: int
    inside: int


def sentences(labels: Sequence[str], scheme: Scheme, odd: Odd) -> tuple[str, ...]:
    """Returns how the tags of training rows are read, and what is odd about them."""
    told = [f"train: words are tagged by the scheme {scheme}, with the labels {listed(labels)}."]
    if scheme == "plain" and all(label.isdigit() for label in labels):
        told.append(
            "train: the tags are numbers without names. Each is a class of its own, and none is "
            '"outside": write names, such as O and B-person, to learn entities.'
        )
    if odd.rows:
        told.append(
            f"train: the tags of {counted(odd.rows, 'row')} break the scheme {scheme}, such as "
            "I- after O. They are read as seqeval's default mode reads them: what goes on with "
            "nothing begins an entity."
        )
    if odd.trimmed:
        told.append(
            f"train: {counted(odd.trimmed, 'mark')} began or ended with blanks, which are left out."
        )
    if odd.inside:
        told.append(
            f"train: the edges of {counted(odd.inside, 'mark')} stand inside a word. The model "
            "answers with whole words, so it cannot be right there."
        )
    return tuple(told)


def limits(
    crf_file: str | None, windows: tuple[int, int] | None, scheme: Scheme
) -> tuple[str, ...]:
    """Returns sentences for the model card on what only we do with tags.

    `windows` are the tokens of a window and of what it shares; None reads none.
    """
    found = []
    if crf_file is not None:
        found.append(
            f"The tags of a text are chosen together by a CRF, which is kept in `{crf_file}`. "
            "Stock `transformers` does not know it: there each token has its likeliest tag by "
            "itself."
        )
    if windows is not None:
        length, stride = windows
        found.append(
            f"Texts of more than {length} tokens are read in windows of so many, each of which "
            f"shares at most {stride} with the one before; a word is read where it stands deepest "
            f"inside a window. The pipeline of stock `transformers` reads the first {length} "
            f"tokens; with stride={stride} it reads windows, and joins what it finds in another "
            "way."
        )
    if scheme == "IOB1":
        found.append("Tags are answered in IOB1, as in the data; the saved model's own are BIO.")
    elif scheme == "plain":
        found.append(
            "Each word is an entity of its own (the scheme plain). The pipeline of stock "
            "`transformers` joins neighbours of one tag."
        )
    elif scheme not in ("BIO", "IO"):
        found.append(
            f"Tags are {scheme}. The pipeline of stock `transformers` joins those that begin with "
            "B- or I-, and leaves all others as entities of their own."
        )
    return tuple(found)


def tables(statistics: Statistics, labels: Sequence[str]) -> list[Table]:
    """Returns the scores of each label, and which labels are taken for one another."""
    scores = sorted(label_scores(statistics, labels), key=lambda each: each.f1)
    header = ("label", "precision", "recall", "F1", "F1, strict", "true entities")
    rows = [(e.label, e.precision, e.recall, e.f1, e.f1_strict, e.num_entities) for e in scores]
    found = [Table("Scores of each label", header, rows, "The hardest first.")]
    taken = label_confusions(statistics, labels)[:MAX_SHOWN]
    if taken:
        note = "Entities whose place is right and whose label is not, the commonest first."
        lines = [(each.true, each.answered, each.num_entities) for each in taken]
        shown = ("true label", "answered", "entities")
        found.append(Table("Labels taken for one another", shown, lines, note))
    return found
