"""Tags of tokens and the spans that they mark: BIO (IOB2), IOB1, BIOES (BILOU), or plain tags.

["B-person", "I-person", "O"]  <->  [(0, 2, "person")]

Without a prefix, as for parts of speech, every token is a span of its own. Ramshaw & Marcus 1995
(IOB1), Ratnaparkhi 1998 (IOB2).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

Scheme = Literal["BIO", "BIOES", "plain"]
TokenSpan = tuple[int, int, str]
"""First token, the one after the last, and the label."""

OUTSIDE = "O"
# BILOU says L for the last and U for the only token of a span.
_USUAL = {"L": "E", "U": "S"}
_PREFIXES = frozenset("BIESLU")


def parts_of(tag: str) -> tuple[str, str]:
    """Returns a tag's prefix, in BIOES's letters, and its label; ("O", "") outside."""
    if tag == OUTSIDE:
        return OUTSIDE, ""
    prefix, dash, label = tag.partition("-")
    if dash and prefix in _PREFIXES:
        return _USUAL.get(prefix, prefix), label
    return "S", tag


def scheme_of(sequences: Iterable[Sequence[str]]) -> Scheme:
    """Returns how rows are tagged; IOB1 counts as BIO, which `spans_of` reads alike."""
    tags = {tag for sequence in sequences for tag in sequence} - {OUTSIDE}
    if any("-" not in tag or tag[0] not in _PREFIXES or tag[1] != "-" for tag in tags):
        return "plain"
    return "BIOES" if any(tag[0] in "ESLU" for tag in tags) else "BIO"


def spans_of(tags: Sequence[str]) -> list[TokenSpan]:
    """Returns the spans that tags mark, in any scheme, as seqeval's default mode reads them.

    A span also begins where a tag goes on with another label than the one before, or after none.
    """
    spans: list[TokenSpan] = []
    before, label_before, start = OUTSIDE, "", 0
    for place, tag in enumerate([*tags, OUTSIDE]):
        prefix, label = parts_of(tag)
        begins = prefix in "BS" or before in "OES" or label != label_before
        if before != OUTSIDE and (prefix == OUTSIDE or begins):
            spans.append((start, place, label_before))
        if prefix != OUTSIDE and begins:
            start = place
        before, label_before = prefix, label
    return spans


def strict_spans_of(tags: Sequence[str], scheme: Scheme) -> list[TokenSpan]:
    """Returns the spans that a scheme allows, as seqeval's strict mode reads them.

    In BIO a span begins with B; in BIOES it is S, or begins with B and ends with E.
    """
    if scheme == "plain":
        return spans_of(tags)
    spans: list[TokenSpan] = []
    start: int | None = None
    opened = ""
    for place, tag in enumerate([*tags, OUTSIDE]):
        prefix, label = parts_of(tag)
        goes_on = start is not None and prefix in "IE" and label == opened
        if start is not None and not goes_on:
            if scheme == "BIO":
                spans.append((start, place, opened))
            start = None
        if scheme == "BIOES" and goes_on and prefix == "E" and start is not None:
            spans.append((start, place + 1, opened))
            start = None
        if scheme == "BIOES" and prefix == "S":
            spans.append((place, place + 1, label))
        if prefix == "B":
            start, opened = place, label
    return spans


def tags_of(spans: Iterable[TokenSpan], num_tokens: int, scheme: Scheme) -> list[str]:
    """Returns the tags of tokens in a scheme; spans must not overlap."""
    tags = [OUTSIDE] * num_tokens
    for start, end, label in spans:
        if scheme == "plain":
            tags[start:end] = [label] * (end - start)
            continue
        tags[start:end] = [f"B-{label}", *[f"I-{label}"] * (end - start - 1)]
        if scheme == "BIOES":
            tags[end - 1] = f"E-{label}" if end - start > 1 else f"S-{label}"
    return tags


def tag_names(labels: Iterable[str], scheme: Scheme) -> tuple[str, ...]:
    """Returns every tag of a scheme, outside first; plain tags have no outside of their own."""
    if scheme == "plain":
        return tuple(labels)
    prefixes = "BI" if scheme == "BIO" else "BIES"
    return OUTSIDE, *(f"{prefix}-{label}" for label in labels for prefix in prefixes)


def may_follow(first: str, second: str, scheme: Scheme) -> bool:
    """Says whether a scheme allows two tags one after the other; "" is before and after a text."""
    if scheme == "plain":
        return True
    (before, label_before), (after, label_after) = (
        parts_of(tag) if tag else (OUTSIDE, "") for tag in (first, second)
    )
    is_open = before in "BI" and (scheme == "BIOES" or after == "I")
    if scheme == "BIOES" and before in "BI":
        return after in "IE" and label_before == label_after
    if after in "IE":
        return is_open and label_before == label_after
    return True
