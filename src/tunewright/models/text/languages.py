"""The languages' codes of three letters (ISO 639-3) by those of two (ISO 639-1)."""

from __future__ import annotations

_PAIRS = """
af:afr am:amh ar:ara az:aze be:bel bg:bul bn:ben bs:bos ca:cat cs:ces cy:cym da:dan de:deu el:ell
en:eng eo:epo es:spa et:est eu:eus fa:fas fi:fin fr:fra ga:gle gl:glg gu:guj he:heb hi:hin hr:hrv
hu:hun hy:hye id:ind is:isl it:ita ja:jpn ka:kat kk:kaz km:khm kn:kan ko:kor lt:lit lv:lav mk:mkd
ml:mal mn:mon mr:mar ms:msa mt:mlt my:mya ne:nep nl:nld no:nor pa:pan pl:pol ps:pus pt:por ro:ron
ru:rus si:sin sk:slk sl:slv so:som sq:sqi sr:srp sv:swe sw:swa ta:tam te:tel th:tha tl:tgl tr:tur
uk:ukr ur:urd uz:uzb vi:vie yo:yor zh:zho zu:zul
"""
THREE_LETTERS = dict(pair.split(":") for pair in _PAIRS.split())
