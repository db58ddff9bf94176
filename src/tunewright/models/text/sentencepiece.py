"""Fast tokenizers for the families that are published as SentencePiece files alone.

    source, target = marian_backends(folder)     # source.spm, target.spm and vocab.json
    backend = m2m100_backend(folder, languages)  # sentencepiece.bpe.model and vocab.json

Both cut a text into pieces by the SentencePiece file, and take the ids of pieces from vocab.json.
The library reads them text by text with the package sentencepiece; here the same pieces come from
`tokenizers`. A file is a protocol buffer (sentencepiece_model.proto of google/sentencepiece), of
which the pieces, the algorithm and the normaliser are read.

A piece of vocab.json that a side's file does not have is not taken where that side's own pieces
cover the text. Letters that it does not know are taken one by one, where vocab.json has them, and
are the unknown token elsewhere; the library looks up a row of them as one piece. What the file has
and vocab.json has not is cut further, where the library finds nothing.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from tunewright.errors import ModelError
from tunewright.models.files.weights import DAMAGED, read_json_object

SOURCE, TARGET, VOCABULARY = "source.spm", "target.spm", "vocab.json"
TARGET_VOCABULARY = "target_vocab.json"
BPE_MODEL = "sentencepiece.bpe.model"

MAX_FILE_BYTES = 32_000_000  # published files have at most 8 MB
MAX_PIECE_CHARACTERS = 256  # published pieces have at most 16
MAX_CHARACTERS = 2_000_000  # of all pieces: a search tree of unlike ones takes 2 kB for each
MAX_SPECIAL = 2_000
FOREIGN = -1e6  # the score, for each letter and one more, of a piece that only the other side has
SPACE = "▁"
# The types of pieces: those that stand for text, and those that are read in ways of their own.
NORMAL, USER_DEFINED, BYTE = 1, 4, 6
UNIGRAM, BPE = 1, 2
WIDE_TILDE, PRIVATE = "\uff5e", "\ue000"

Field = int | bytes


@dataclass(frozen=True)
class Pieces:
    """What a SentencePiece file says: the scores of its pieces, in their order, and how to read."""

    scores: Mapping[str, float]
    algorithm: int
    normaliser: bytes
    rule: str
    begins_with_space: bool


def read_pieces(path: Path) -> Pieces:
    """Reads a SentencePiece file.

    Raises ModelError when it is too large or damaged, or asks for what is not known here.
    """
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ModelError(
            str(path),
            f"is {path.stat().st_size:,} bytes long",
            f"It may have at most {MAX_FILE_BYTES:,}.",
            "Use the model's own tokenizer.",
        )
    try:
        message = [*_fields(path.read_bytes())]
        pieces = [_piece(_bytes(value)) for number, value in message if number == 1]
        trainer, normaliser = _part(message, 2), _part(message, 3)
        scores = {piece: score for piece, score, kind in pieces if kind == NORMAL}
        algorithm = _integer(trainer.get(3, UNIGRAM))
        rule, table = (_bytes(normaliser.get(number, b"")) for number in (1, 2))
        found = Pieces(scores, algorithm, table, rule.decode(), bool(normaliser.get(3, True)))
    except (ValueError, struct.error, UnicodeDecodeError) as error:
        raise ModelError(str(path), f"is no SentencePiece file ({error})", "", DAMAGED) from None
    if algorithm not in (UNIGRAM, BPE) or not scores:
        raise ModelError(
            str(path),
            f"holds {len(scores):,} pieces for algorithm {algorithm}",
            "Pieces for unigram (1) or BPE (2) are needed.",
            "Use the model's own tokenizer.",
        )
    kinds = {kind for _, _, kind in pieces}
    unknown = {
        "bytes": BYTE in kinds,
        "pieces of the user's": USER_DEFINED in kinds,
        "pieces over several words": any(SPACE in piece[1:] for piece in scores),
        "spaces as they stand": not normaliser.get(4, True),
        "spaces at the ends of words": trainer.get(24),
    }
    if any(unknown.values()):
        raise ModelError(
            str(path),
            f"has {' and '.join(name for name, there in unknown.items() if there)}",
            "Such a file is not read yet.",
            "Use a model with a tokenizer of another kind.",
        )
    return found


def _part(message: Sequence[tuple[int, Field]], number: int) -> dict[int, Field]:
    """Returns the fields of a part of the message, by their numbers; the last of each counts."""
    parts = [_bytes(value) for each, value in message if each == number]
    return {key: value for part in parts for key, value in _fields(part)}


def _piece(message: bytes) -> tuple[str, float, int]:
    piece, score, kind = "", 0.0, NORMAL
    for number, value in _fields(message):
        if number == 1:
            piece = _bytes(value).decode()
            if len(piece) > MAX_PIECE_CHARACTERS:
                raise ValueError(f"a piece has {len(piece):,} characters")
        elif number == 2:
            (score,) = struct.unpack("<f", _bytes(value))
            if not math.isfinite(score):
                raise ValueError(f"the score of a piece is {score}")
        elif number == 3:
            kind = _integer(value)
    return piece, score, kind


def _fields(message: bytes) -> Iterator[tuple[int, Field]]:
    """Yields the numbered fields of a protocol buffer message: whole numbers, or bytes.

    Raises ValueError where the message ends too early or is none.
    """
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        kind = key & 7
        if kind == 0:
            number, place = _varint(message, place)
            yield key >> 3, number
            continue
        if kind == 2:
            size, place = _varint(message, place)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"there is no field of kind {kind}")
        if place + size > len(message):
            raise ValueError("it ends too early")
        yield key >> 3, message[place : place + size]
        place += size


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """Returns a number of seven bits in each byte, the lowest first, and the place after it."""
    value = 0
    for index in range(10):
        if place + index >= len(message):
            raise ValueError("it ends too early")
        byte = message[place + index]
        value |= (byte & 127) << (7 * index)
        if byte < 128:
            return value, place + index + 1
    raise ValueError("a number is too long")


def _bytes(value: Field) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number stands where bytes are expected")
    return value


def _integer(value: Field) -> int:
    if isinstance(value, bytes):
        raise ValueError("bytes stand where a number is expected")
    return value


# Families ------------------------------------------------------------------------------------


def marian_backends(folder: Path) -> tuple[Tokenizer, Tokenizer]:
    """Returns the tokenizers of a Marian folder's sources and of its targets, with the same ids.

    Raises ModelError for files that are damaged, and for sides with ids of their own.
    """
    if (folder / TARGET_VOCABULARY).is_file():
        raise ModelError(
            str(folder / TARGET_VOCABULARY),
            "gives targets ids of their own",
            "Both sides need the same ids.",
            f"Use a model with one {VOCABULARY}.",
        )
    ids = _read_ids(folder / VOCABULARY)
    codes = [piece for piece in ids if piece.startswith(">>") and piece.endswith("<<")]
    if len(codes) > MAX_SPECIAL:
        raise ModelError(
            str(folder / VOCABULARY),
            f"holds {len(codes):,} languages",
            f"It may have at most {MAX_SPECIAL:,}.",
            "Use the model's own tokenizer.",
        )
    special = [*(token for token in ("</s>", "<unk>", "<pad>") if token in ids), *codes]
    source, target = (
        _backend(read_pieces(folder / name), ids, special) for name in (SOURCE, TARGET)
    )
    return source, target


def m2m100_backend(folder: Path, languages: Sequence[str]) -> Tokenizer:
    """Returns the tokenizer of an M2M100 folder; the languages' ids follow those of its pieces."""
    ids = _read_ids(folder / VOCABULARY)
    special = [token for token in ("<s>", "<pad>", "</s>", "<unk>") if token in ids]
    made = _backend(read_pieces(folder / BPE_MODEL), ids, special)
    made.add_special_tokens([_special(f"__{language}__") for language in languages])
    return made


def _read_ids(path: Path) -> dict[str, int]:
    """Returns the ids of vocab.json: 0, 1, 2, and so on without a hole."""
    if not path.is_file():
        raise ModelError(str(path), "is missing", "It gives pieces their ids.", DAMAGED)
    ids = read_json_object(path, MAX_FILE_BYTES)
    if sorted(ids.values(), key=str) != sorted(range(len(ids)), key=str) or "<unk>" not in ids:
        raise ModelError(
            str(path),
            f"does not give its {len(ids):,} pieces, <unk> among them, the ids from 0 on",
            "Every id needs one piece.",
            "Use the model's own tokenizer.",
        )
    longest, characters = max(map(len, ids)), sum(map(len, ids))
    if longest > MAX_PIECE_CHARACTERS or characters > MAX_CHARACTERS:
        raise ModelError(
            str(path),
            f"holds {characters:,} characters, and {longest:,} in one piece",
            f"It may have at most {MAX_CHARACTERS:,}, and {MAX_PIECE_CHARACTERS} in one piece.",
            "Use the model's own tokenizer.",
        )
    return dict(sorted(ids.items(), key=lambda item: item[1]))


def _backend(pieces: Pieces, ids: Mapping[str, int], special: Sequence[str]) -> Tokenizer:
    model: models.Model
    if pieces.algorithm == BPE:
        model = models.BPE(dict(ids), _merges(pieces, ids), unk_token="<unk>", fuse_unk=True)
    else:
        scored = [(piece, pieces.scores.get(piece, FOREIGN * _weight(piece))) for piece in ids]
        model = models.Unigram(scored, unk_id=ids["<unk>"], byte_fallback=False)
    made = Tokenizer(model)
    made.normalizer = normalizers.Sequence(_normalisers(pieces))
    scheme = "always" if pieces.begins_with_space else "never"
    made.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme=scheme)
    made.decoder = decoders.Metaspace(SPACE, prepend_scheme=scheme)
    made.add_special_tokens([_special(token) for token in special])
    if "</s>" in ids:
        made.post_processor = processors.TemplateProcessing(
            single="$A </s>", pair="$A $B </s>", special_tokens=[("</s>", ids["</s>"])]
        )
    return made


def _weight(piece: str) -> int:
    """A letter by itself weighs less than any longer piece that it is in."""
    return 1 if len(piece) == 1 else len(piece) + 1


def _normalisers(pieces: Pieces) -> list[normalizers.Normalizer]:
    """Returns the steps that make a text what its pieces are looked for in.

    `Precompiled` knows a letter with its marks only where they are one character, so they are put
    together first, where the file's own rule would do it. NMT's rules leave U+FF5E as it is.
    """
    steps: list[normalizers.Normalizer] = []
    if pieces.rule.removeprefix("nmt_").startswith("nfkc"):
        kept = normalizers.Replace(WIDE_TILDE, PRIVATE), normalizers.Replace(PRIVATE, WIDE_TILDE)
        around = kept if pieces.rule.startswith("nmt_") else ()
        steps += [*around[:1], normalizers.NFKC(), *around[1:]]
    if pieces.normaliser:
        steps.append(normalizers.Precompiled(pieces.normaliser))
    spaces = (Regex("^ +| +$"), ""), (Regex(" {2,}"), " ")
    return steps + [normalizers.Replace(pattern, to) for pattern, to in spaces]


def _special(token: str) -> AddedToken:
    return AddedToken(token, special=True, normalized=False)


def _merges(pieces: Pieces, ids: Mapping[str, int]) -> list[tuple[str, str]]:
    """Returns the merges that make the pieces, the earliest first: BPE scores a piece by its turn.

    A piece may come of several pairs; whichever stands in a text is merged in its turn.
    """
    found = []
    for piece, score in pieces.scores.items():
        pairs = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
        found += [
            (-score, left, right)
            for left, right in pairs
            if piece in ids and left in ids and right in ids
        ]
    return [(left, right) for _, left, right in sorted(found, key=lambda merge: merge[0])]
