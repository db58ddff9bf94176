"""Finds out how a text file is encoded, and reads its lines.

The rules, in order: what the user says; a byte order mark; strict UTF-8; what the training data
were; strict GB18030 when what comes out reads as Chinese. Anything else is an error that names the
first bad byte. What was found is reported with the table, so no encoding is ever guessed in
silence.
"""

from __future__ import annotations

import codecs
import encodings.aliases
import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import BinaryIO

from tunewright.data.formats.sources import CHUNK_BYTES
from tunewright.errors import DataError, SettingsError, nearest

# UTF-32's mark begins with UTF-16's, so it is looked for first.
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# The characters that modern written Chinese uses most, with its punctuation: they make up well
# over a third of running text, and about 4 % of what another double-byte encoding decodes to.
COMMON_CHINESE = frozenset(
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过"
    "发后作里用道行所然家种事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本"
    "前开但因只从想实日军者意无力它与长把机十民第公此已工使情明性知全三又关点正业外将两高间由问很"
    "最重并物手应战向头文体政美相见被利什二等产或新己制身果加西斯月话合回特代内信表化老给世位次度"
    "门任常先海通教儿原东声提立及比员解水名真论处走义各入几口认条平系气题活尔更别打女变四神总何电"
    "，。！？、；：“”《》（）"
)
# Chosen between the two shares above.
MIN_COMMON_SHARE = 0.15
# What Windows writes in Western Europe and America, and calls ANSI. By a few letters with accents
# nobody can tell it from these.
WINDOWS = "cp1252"
LIKE_WINDOWS = ("cp1250", "cp1254", "cp1257", "latin-1", "iso8859-1", "iso8859-2", "iso8859-15")
# No line may be longer than this many of the longest allowed texts: escapes make JSON longer.
LINE_OF_TEXTS = 8

Opener = Callable[[], AbstractContextManager[BinaryIO]]


def find_encoding(
    open_stream: Opener, name: str, requested: str | None, usual: str | None = None
) -> str:
    """Returns the codec to read a file with: the requested one, or the one that it shows.

    `usual` is that of files like it: it is taken where the file is not UTF-8. Reads the whole file
    once or twice, in pieces. Raises: SettingsError when `requested` is not an encoding, DataError
    when no rule fits.
    """
    with open_stream() as stream:
        marked = marked_encoding(stream.read(4))
    codec = check_encoding(requested) if requested is not None else marked or "utf-8"
    with open_stream() as stream:
        bad = first_bad_byte(stream, codec)
    if bad is None:
        return codec
    if requested is None and marked is None:
        if usual is not None and (found := _strictly(open_stream, usual)):
            return found
        if is_chinese(open_stream):
            return "gb18030"
    raise bad_byte_error(open_stream, name, codec, bad)


def _strictly(open_stream: Opener, usual: str) -> str | None:
    """Returns the usual encoding's codec where the whole file is of it."""
    codec = check_encoding(usual)
    with open_stream() as stream:
        return codec if first_bad_byte(stream, codec) is None else None


def holds_windows(open_stream: Opener) -> bool:
    """Says whether a one-byte text has what Latin-1 has no signs for and Windows has: quotes, €."""
    with open_stream() as stream:
        while chunk := stream.read(CHUNK_BYTES):
            if len(chunk) != len(chunk.translate(None, bytes(range(0x80, 0xA0)))):
                return True
    return False


def marked_encoding(head: bytes) -> str | None:
    """Returns the codec that a file's first bytes announce by a byte order mark, or None."""
    return next((codec for mark, codec in BYTE_ORDER_MARKS if head.startswith(mark)), None)


def check_encoding(requested: str) -> str:
    """Returns the requested encoding's name as Python spells it.

    Raises: SettingsError when Python has no such text encoding.
    """
    try:
        codec = codecs.lookup(requested)
    except (LookupError, ValueError):
        codec = None
    if codec is None or not codec._is_text_encoding:
        near = nearest(requested, encodings.aliases.aliases)
        raise SettingsError(
            "data.encoding",
            f'"{requested}" is not a text encoding',
            "Names such as utf-8, gb18030 or latin-1 are known.",
            f'Did you mean "{near}"?' if near else "",
        )
    return codec.name


def first_bad_byte(stream: BinaryIO, codec: str) -> int | None:
    """Returns the offset of the first byte that is not `codec`, or None when all are."""
    decoder = codecs.getincrementaldecoder(codec)("strict")
    num_bytes = 0
    while True:
        chunk = stream.read(CHUNK_BYTES)
        num_pending = len(decoder.getstate()[0])
        try:
            decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            return num_bytes - num_pending + error.start
        except UnicodeError:  # no byte order mark where there has to be one
            return 0
        if not chunk:
            return None
        num_bytes += len(chunk)


def is_chinese(open_stream: Opener) -> bool:
    """Says whether a file decodes strictly as GB18030 and then reads as Chinese.

    Other encodings, Korean's among them, often decode without an error too; what comes out is
    then rare characters. So the common ones must make up a share of all that are not ASCII.
    """
    decoder = codecs.getincrementaldecoder("gb18030")("strict")
    num_wide = num_common = 0
    with open_stream() as stream:
        while True:
            chunk = stream.read(CHUNK_BYTES)
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError:
                return False
            wide = [character for character in text if character > "\x7f"]
            num_wide += len(wide)
            num_common += sum(character in COMMON_CHINESE for character in wide)
            if not chunk:
                return num_common >= MIN_COMMON_SHARE * num_wide > 0


def bad_byte_error(open_stream: Opener, name: str, codec: str, offset: int) -> DataError:
    """Returns the error that names a byte which is not `codec`: its value, offset and line."""
    with open_stream() as stream:
        line = _line_of(stream, offset)
        value = stream.read(1)
    likely = _likely_encoding(open_stream)
    is_close = likely in LIKE_WINDOWS
    named = WINDOWS if is_close or likely is None else likely
    either = f'"{WINDOWS}" or "{likely}"' if is_close else f'"{likely}"'
    shown = f"the byte 0x{value.hex()} at offset {offset:,}" if value else "the end of the file"
    return DataError(
        f"{name}, line {line}",
        f"{shown} is not {codec.upper()}",
        f"The file looks like {either}, but that is a guess." if likely else "",
        f"Save it as UTF-8, or name its encoding, such as data.encoding={named}.",
    )


def _line_of(stream: BinaryIO, offset: int) -> int:
    """Reads up to `offset` and returns the line that begins or goes on there, from 1."""
    line, last = 1, b""
    while offset:
        chunk = stream.read(min(offset, CHUNK_BYTES))
        if not chunk:
            break
        offset -= len(chunk)
        line += chunk.count(b"\n") + chunk.count(b"\r") - chunk.count(b"\r\n")
        line -= last == b"\r" and chunk.startswith(b"\n")
        last = chunk[-1:]
    return line


def _likely_encoding(open_stream: Opener) -> str | None:
    """Returns charset-normalizer's opinion on the first 64 KiB, only to be offered to the user."""
    from charset_normalizer import from_bytes

    with open_stream() as stream:
        best = from_bytes(stream.read(64 * 1024)).best()
    return best.encoding.replace("_", "-") if best and best.encoding != "utf_8" else None


class Lines:
    """The physical lines of a text stream, each with its own line end (LF, CRLF or CR).

    U+2028 and its like end no line. `num_read` is the number of the line last given, from 1, and
    `num_characters` how many characters were given so far.

    Raises while walked: DataError for a NUL, a byte that is not `codec`, or a line longer than
    `max_text_bytes` allows.
    """

    def __init__(self, stream: BinaryIO, codec: str, name: str, max_text_bytes: int) -> None:
        self._text = io.TextIOWrapper(stream, encoding=codec, errors="strict", newline="")
        self._max_characters = LINE_OF_TEXTS * max_text_bytes
        self.name, self.codec, self.max_text_bytes = name, codec, max_text_bytes
        self.num_read = self.num_characters = 0

    def __iter__(self) -> Iterator[str]:
        while line := self._next():
            self.num_read += 1
            self.num_characters += len(line)
            self.check(line)
            yield line

    def check(self, line: str) -> None:
        """Raises DataError for the line last read if it holds a NUL or is too long."""
        if "\0" in line:
            raise self._nul(line)
        if len(line) > self._max_characters:
            raise too_long_error(self.name, self.num_read, self.max_text_bytes)

    def _next(self) -> str:
        try:
            line = self._text.readline(self._max_characters + 1)
        except UnicodeDecodeError as error:
            raise self.undecodable(error, f"after line {self.num_read}") from None
        except UnicodeError as error:  # no byte order mark where there has to be one
            raise DataError(self.name, str(error), "", "Name its encoding.") from None
        return line.removeprefix("\ufeff") if self.num_read == 0 else line

    def _nul(self, line: str) -> DataError:
        return DataError(
            f"{self.name}, line {self.num_read}",
            f"there is a NUL at character {line.index(chr(0)) + 1}",
            "A text file holds none.",
            'If it is UTF-16 without a byte order mark, pass data.encoding="utf-16-le".',
        )

    def undecodable(self, error: UnicodeDecodeError, where: str) -> DataError:
        """Returns the error for a byte that is not of the codec."""
        return DataError(
            f"{self.name}, {where}",
            f"the byte 0x{error.object[error.start]:02x} is not {self.codec.upper()}",
            "",
            "Save the text as UTF-8, or name its encoding with data.encoding.",
        )

    def close(self) -> None:
        """Lets go of the stream without closing it."""
        if not self._text.closed:
            self._text.detach()


def too_long_error(name: str, line: int, max_text_bytes: int) -> DataError:
    """Returns the error for a text over the limit."""
    return DataError(
        f"{name}, line {line}",
        f"a value is longer than {max_text_bytes:,} bytes",
        "",
        "If it is one text, raise data.max_text_bytes. If not, look for a quote or bracket "
        "that is never closed.",
    )
