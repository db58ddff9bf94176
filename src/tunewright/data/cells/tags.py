"""Tags of tokens and the spans that they mark, in every scheme that data come in.

["B-person", "I-person", "O"]  <->  [(0, 2, "person")]

    BIO     B I     B begins every span (IOB2; Ratnaparkhi 1998)
    IOB1    I B     B begins a span only right after one of the same label (Ramshaw & Marcus 1995)
    IOE2    I E     E ends every span (Tjong Kim Sang & Veenstra 1999)
    BIOES   B I E S E ends a span, S is one of a single token; BILOU says L and U, BMES says M for I
    IO              bare labels, and O outside: tokens of one label in a row are one span
    plain           bare labels without an outside, such as parts of speech: a span for each token
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Literal

from tunewright.errors import DataError, listed

Scheme = Literal["BIO", "IOB1", "IOE2", "BIOES", "BILOU", "BMES", "IO", "plain"]
TokenSpan = tuple[int, int, str]
"""First token, the one after the last, and the label."""

OUTSIDE = "O"
# The letters of a span's first, inner and last token, and of an only one.
_LETTERS: dict[Scheme, str] = {
    "BIO": "BIIB",
    "IOB1": "IIII",
    "IOE2": "IIEE",
    "BIOES": "BIES",
    "BILOU": "BILU",
    "BMES": "BMES",
}
_USUAL = {"L": "E", "U": "S", "M": "I"}
_PREFIXES = frozenset("BIESLUM")
# How others write "B-person": B_person, person-B, b-person. And that itself, beside a small "o".
_OTHER_WRITINGS = tuple(
    map(
        re.compile,
        (
            r"(?P<prefix>[BIESLUM])[_.:/|](?P<label>.+)",
            r"(?P<label>.+)[-_.:/|](?P<prefix>[BIESLUM])",
            r"(?P<prefix>[bieslum])[-_](?P<label>.+)",
        ),
    )
)
_USUAL_ONE = re.compile("(?P<prefix>[BIESLUM])-(?P<label>.+)")


def parts_of(tag: str, scheme: Scheme = "BIO") -> tuple[str, str]:
    """Returns a tag's prefix, in BIOES's letters, and its label; ("O", "") outside."""
    if tag == OUTSIDE:
        return OUTSIDE, ""
    if scheme in _LETTERS:
        prefix, dash, label = tag.partition("-")
        if dash and prefix in _PREFIXES:
            return _USUAL.get(prefix, prefix), label
    return "I" if scheme == "IO" else "S", tag


def scheme_of(sequences: Iterable[Sequence[str]]) -> Scheme:
    """Returns how the tags of rows are written."""
    sequences = list(sequences)
    tags = {tag for sequence in sequences for tag in sequence}
    prefixes = {_prefix_of(tag) for tag in tags - {OUTSIDE}}
    if "" in prefixes:
        return "IO" if OUTSIDE in tags else "plain"
    if "M" in prefixes:
        return "BMES"
    if prefixes & {"L", "U"}:
        return "BILOU"
    if prefixes & {"E", "S"}:
        return "IOE2" if prefixes <= {"I", "E"} else "BIOES"
    return "IOB1" if _is_iob1(sequences) else "BIO"


def check_writing(tags: Iterable[str]) -> None:
    """Raises DataError where all tags are those of a scheme, written in another way.

    They would be bare labels, and each token of a span a span of its own.
    """
    tags = set(tags)
    own = sorted(tags - {OUTSIDE, OUTSIDE.lower()})
    is_small = OUTSIDE.lower() in tags
    if not is_small and all(map(_USUAL_ONE.fullmatch, own)):
        return
    for writing in (*_OTHER_WRITINGS, *([_USUAL_ONE] if is_small else [])):
        found = [each for tag in own if (each := writing.fullmatch(tag))]
        pairs = {(each["prefix"].upper(), each["label"]) for each in found}
        begun = {label for prefix, label in pairs if prefix == "B"}
        if len(found) == len(own) and any(("I", label) in pairs for label in begun):
            shown = OUTSIDE.lower() if writing is _USUAL_ONE else own[0]
            raise DataError(
                "the training data",
                f'its tags are written like "{shown}"',
                "Tags are B-person, I-person and O, or those of another scheme with such a dash.",
                "Write them so.",
            )


def check_prefixes(sequences: Iterable[Sequence[str]]) -> None:
    """Raises DataError where some tags have no prefix beside B-person and I-person.

    All would be bare labels then, and each word of a span a span of its own.
    """
    counts = Counter(tag for sequence in sequences for tag in sequence)
    bare = sorted(tag for tag in counts if tag != OUTSIDE and not _prefix_of(tag))
    pairs = {tag.partition("-")[::2] for tag in counts if _prefix_of(tag)}
    is_marked = any(("I", label) in pairs for prefix, label in pairs if prefix == "B")
    if bare and is_marked:
        marked = sorted(tag for tag in counts if _prefix_of(tag))
        raise DataError(
            "the training data",
            f"it has tags such as {listed(marked[:2])}, and {sum(counts[tag] for tag in bare):,} "
            f"without a prefix, such as {listed(bare[:3])}",
            "All tags but O have a prefix, or none has.",
            "Write them in one way.",
        )


def _prefix_of(tag: str) -> str:
    prefix, dash, _ = tag.partition("-")
    return prefix if dash and prefix in _PREFIXES else ""


def _is_iob1(sequences: Iterable[Sequence[str]]) -> bool:
    """Says whether B stands only after the same label, and I begins a span somewhere."""
    begins_with_i = False
    for tags in sequences:
        for before, tag in pairwise([OUTSIDE, *tags]):
            (_, own), (prefix, label) = parts_of(before), parts_of(tag)
            if prefix == "B" and own != label:
                return False
            begins_with_i |= prefix == "I" and own != label
    return begins_with_i


def spans_of(tags: Sequence[str], scheme: Scheme = "BIO") -> list[TokenSpan]:
    """Returns the spans that tags mark, as seqeval's default mode reads them.

    A span also begins where a tag goes on with another label than the one before, or after none.
    """
    spans: list[TokenSpan] = []
    before, label_before, start = OUTSIDE, "", 0
    for place, tag in enumerate([*tags, OUTSIDE]):
        prefix, label = parts_of(tag, scheme)
        begins = prefix in "BS" or before in "OES" or label != label_before
        if before != OUTSIDE and (prefix == OUTSIDE or begins):
            spans.append((start, place, label_before))
        if prefix != OUTSIDE and begins:
            start = place
        before, label_before = prefix, label
    return spans


def strict_spans_of(tags: Sequence[str], scheme: Scheme) -> list[TokenSpan]:
    """Returns the spans that a scheme allows, as seqeval's strict mode reads them.

    In BIO a span begins with B, in IOE2 it ends with E; in BIOES it is S, or has both. In IOB1 no B
    stands but right after the same label. Bare labels allow all that `spans_of` finds.
    """
    if scheme == "BIO":
        return _begun_spans(tags)
    if scheme == "IOB1":
        return _parted_spans(tags)
    if scheme == "IOE2":
        return [span for span in spans_of(tags, scheme) if parts_of(tags[span[1] - 1])[0] == "E"]
    if scheme in ("BIOES", "BILOU", "BMES"):
        return _closed_spans(tags, scheme)
    return spans_of(tags, scheme)


def _begun_spans(tags: Sequence[str]) -> list[TokenSpan]:
    spans: list[TokenSpan] = []
    start, opened = -1, ""
    for place, tag in enumerate([*tags, OUTSIDE]):
        prefix, label = parts_of(tag)
        if start >= 0 and (prefix, label) != ("I", opened):
            spans.append((start, place, opened))
            start = -1
        if prefix == "B":
            start, opened = place, label
    return spans


def _parted_spans(tags: Sequence[str]) -> list[TokenSpan]:
    """Returns the spans of IOB1.

    A B after another label is no part of its span, and what a B alone marks is lost where a B of
    another label follows: seqeval knows no end there.
    """
    spans: list[TokenSpan] = []
    parts = [(OUTSIDE, ""), *map(parts_of, tags), (OUTSIDE, "")]
    for start, end, label in spans_of(tags, "IOB1"):
        (_, before), (first, _), (last, _), (after, label_after) = (
            parts[place] for place in (start, start + 1, end, end + 1)
        )
        is_stray = first == "B" and before != label
        is_open = last == after == "B" and label_after != label
        if end - start > is_stray and not is_open:
            spans.append((start + is_stray, end, label))
    return spans


def _closed_spans(tags: Sequence[str], scheme: Scheme) -> list[TokenSpan]:
    spans: list[TokenSpan] = []
    start, opened = -1, ""
    for place, tag in enumerate(tags):
        prefix, label = parts_of(tag, scheme)
        goes_on = start >= 0 and prefix in "IE" and label == opened
        if prefix == "S" or (goes_on and prefix == "E"):
            spans.append((start if goes_on else place, place + 1, label))
        if prefix == "B":
            start, opened = place, label
        elif not goes_on or prefix == "E":
            start = -1
    return spans


def tags_of(spans: Iterable[TokenSpan], num_tokens: int, scheme: Scheme) -> list[str]:
    """Returns the tags of tokens in a scheme; spans come in order and do not overlap."""
    tags = [OUTSIDE] * num_tokens
    before: TokenSpan = (0, 0, "")
    for start, end, label in spans:
        if scheme not in _LETTERS:
            tags[start:end] = [label] * (end - start)
            continue
        first, inner, last, only = tuple(_LETTERS[scheme])
        letters = [first, *inner * (end - start - 2), last] if end - start > 1 else [only]
        if scheme == "IOB1" and before[1:] == (start, label):
            letters[0] = "B"
        tags[start:end] = [f"{letter}-{label}" for letter in letters]
        before = (start, end, label)
    return tags


def rewritten(tags: Sequence[str], scheme: Scheme) -> Sequence[str]:
    """Returns a row's tags in a scheme, where one has a letter that the scheme has not.

    A row that is only odd in its scheme stays as it is.
    """
    letters = {_prefix_of(tag) for tag in tags} - {""}
    own = set("BI" if scheme == "IOB1" else _LETTERS.get(scheme, ""))
    if not own or letters <= own:
        return tags
    return tags_of(spans_of(tags, scheme), len(tags), scheme)


def without_prefix(tags: Iterable[str], scheme: Scheme) -> list[str]:
    """Returns the tags that are bare labels where the scheme has prefixes: `O` is none of them."""
    if scheme not in _LETTERS:
        return []
    return [tag for tag in tags if tag != OUTSIDE and not _prefix_of(tag)]


def continued(tag: str, scheme: Scheme) -> str:
    """Returns the tag of what goes on inside a token, such as the later pieces of a word."""
    prefix, label = parts_of(tag, scheme)
    return f"{_LETTERS[scheme][1]}-{label}" if scheme in _LETTERS and prefix == "B" else tag


def tag_names(labels: Iterable[str], scheme: Scheme) -> tuple[str, ...]:
    """Returns every tag of a scheme, outside first; plain tags have no outside of their own."""
    if scheme == "plain":
        return tuple(labels)
    if scheme == "IO":
        return OUTSIDE, *labels
    letters = "BI" if scheme == "IOB1" else "".join(dict.fromkeys(_LETTERS[scheme]))
    return OUTSIDE, *(f"{letter}-{label}" for label in labels for letter in letters)


def may_follow(first: str, second: str, scheme: Scheme) -> bool:
    """Says whether a scheme allows two tags one after the other; "" is before and after a text."""
    (before, own), (after, label) = (
        parts_of(tag, scheme) if tag else (OUTSIDE, "") for tag in (first, second)
    )
    goes_on = before in "BI" and own == label
    if scheme == "BIO":
        return after != "I" or goes_on
    if scheme == "IOB1":
        return after != "B" or goes_on
    if scheme == "IOE2":
        return before != "I" or (after in "IE" and goes_on)
    if scheme in ("BIOES", "BILOU", "BMES"):
        return (after in "IE" and goes_on) if before in "BI" else after not in "IE"
    return True


def is_allowed(tags: Sequence[str], scheme: Scheme) -> bool:
    """Says whether a scheme allows the tags of a whole text."""
    return all(may_follow(first, second, scheme) for first, second in pairwise(["", *tags, ""]))
