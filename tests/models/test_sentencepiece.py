"""Tokenizers made of SentencePiece files, beside those of the library."""

from __future__ import annotations

import json
import random
import unicodedata

import pytest
import torch

from tunewright.data import read_table
from tunewright.errors import ModelError, SettingsError
from tunewright.models.files.folder import FETCHED
from tunewright.models.generating.targets import frame_of
from tunewright.models.text.sentencepiece import read_pieces
from tunewright.models.text.tokenizer_files import VOCABULARIES, read_tokenizer
from tunewright.models.text.tokenizers import TwoSided, load_tokenizer, target_side
from tunewright.models.text.tokens import encode_text
from tunewright.run.preparing.cache import key_of
from tunewright.tasks.translation import Translation

SENTENCES = (
    "Ein kleiner Hund rennt über die grüne Wiese und eine Frau sieht ihm zu",
    "A small dog runs across the green meadow while one woman is looking at it",
)
ODD = ("", " ", "  two  spaces ", "tab\tnew\nline", "ﬁne ½ Ａ", "a</s>b", "e\u0301", "runs" * 30)


def texts(side, seed=0, count=400):
    rng, words = random.Random(seed), SENTENCES[side].split()
    return [" ".join(rng.choices(words, k=rng.randint(3, 12))) + "." for _ in range(count)]


def trained(path, lines, algorithm, size, **ids):
    sentencepiece = pytest.importorskip("sentencepiece")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(path),
        vocab_size=size,
        model_type=algorithm,
        minloglevel=2,
        pad_id=-1,
        hard_vocab_limit=False,
        **ids,
    )
    return path.with_name(path.name + ".model")


@pytest.fixture(scope="module")
def marian(tmp_path_factory):
    """A folder as Marian models are published: two SentencePiece files, one vocab.json."""
    folder = tmp_path_factory.mktemp("marian")
    for side, name in enumerate(("target", "source")):
        made = trained(folder / name, texts(side), "unigram", 90, bos_id=-1, eos_id=0, unk_id=1)
        made.rename(folder / f"{name}.spm")
    found = [read_pieces(folder / f"{name}.spm").scores for name in ("source", "target")]
    pieces = ["</s>", "<unk>", *dict.fromkeys([*found[0], *found[1]]), ">>deu<<", "<pad>"]
    ids = {piece: number for number, piece in enumerate(pieces)}
    (folder / "vocab.json").write_text(json.dumps(ids))
    settings = {"source_lang": "eng", "target_lang": "deu", "tokenizer_class": "MarianTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config = {
        "model_type": "marian",
        "vocab_size": len(ids),
        "decoder_start_token_id": len(ids) - 1,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def m2m100(tmp_path_factory):
    """A folder as M2M100 is published: one SentencePiece file of BPE, and vocab.json."""
    folder = tmp_path_factory.mktemp("m2m100")
    lines = [line for side in (0, 1) for line in texts(side)]
    made = trained(folder / "bpe", lines, "bpe", 140, bos_id=0, eos_id=1, unk_id=2)
    made.rename(folder / "sentencepiece.bpe.model")
    pieces = read_pieces(folder / "sentencepiece.bpe.model").scores
    ids = {piece: n for n, piece in enumerate(["<s>", "<pad>", "</s>", "<unk>", *pieces])}
    (folder / "vocab.json").write_text(json.dumps(ids))
    config = {"model_type": "m2m_100", "vocab_size": len(ids) + 108}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
def test_a_marian_s_sources_and_targets_have_the_library_s_tokens(marian):
    from transformers import MarianTokenizer

    stock, tokenizer = MarianTokenizer.from_pretrained(marian), load_tokenizer(marian)
    assert isinstance(tokenizer, TwoSided)
    target = target_side(tokenizer)
    for text in [*texts(1, 1, 100), *ODD, ">>deu<< a dog"]:
        assert tokenizer(text)["input_ids"] == stock(text)["input_ids"], text
    compared = 0
    for text in [*texts(0, 1, 100), *ODD]:
        expected = stock(text_target=text)["input_ids"][:-1]
        if tokenizer.unk_token_id in expected:
            continue
        compared += 1
        assert encode_text(target, text, special=False).token_ids.tolist() == expected, text
        shown = stock.decode(expected, skip_special_tokens=True)
        assert tokenizer.decode(expected, skip_special_tokens=True).strip() == shown
    assert compared > 100


def test_letters_of_the_other_side_are_taken_one_by_one(marian):
    tokenizer = load_tokenizer(marian)
    assert "ü" not in read_pieces(marian / "source.spm").scores
    assert tokenizer.tokenize("rüü") == ["▁", "r", "ü", "ü"]
    nothing = tokenizer("狗狗", add_special_tokens=False)["input_ids"]
    assert nothing == tokenizer.convert_tokens_to_ids(["▁", "<unk>"])


def test_both_sides_are_saved_and_read_again(marian, tmp_path):
    tokenizer = load_tokenizer(marian)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes((marian / "config.json").read_bytes())
    again = load_tokenizer(tmp_path)
    text = texts(0)[0]
    assert isinstance(again, TwoSided)
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    ours, theirs = (encode_text(target_side(t), text, special=False) for t in (again, tokenizer))
    assert ours.token_ids.tolist() == theirs.token_ids.tolist()
    assert ours.token_ids.tolist() != again(text)["input_ids"][:-1]


def test_rows_of_another_target_tokenizer_are_kept_apart(marian, tmp_path):
    for file in marian.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "target.spm").write_bytes((marian / "source.spm").read_bytes())
    rows = read_table([{"source": "a dog", "target": "ein Hund"}]).rows({"source": "source"})
    keys = [key_of(rows, Translation(), load_tokenizer(folder)) for folder in (marian, tmp_path)]
    assert keys[0] != keys[1]


def test_a_marian_of_several_languages_is_asked_for_one(marian):
    tokenizer = load_tokenizer(marian)
    code, end = tokenizer.convert_tokens_to_ids([">>deu<<", "</s>"])
    for name in ("deu", "de"):
        assert frame_of(tokenizer, "marian", 5, None, name).source == ((code,), (end,))
    assert frame_of(tokenizer, "marian", 5, None, None).source == ((), (end,))
    with pytest.raises(SettingsError, match=r'writes no language "fra"\. It has "deu"'):
        frame_of(tokenizer, "marian", 5, None, "fra")
    with pytest.raises(SettingsError, match="writes no language"):
        frame_of(tokenizer, "marian", 5, None, "d")


def test_m2m100_has_the_library_s_tokens_and_languages(m2m100):
    from transformers.models.m2m_100.tokenization_m2m_100 import M2M100Tokenizer

    files = str(m2m100 / "vocab.json"), str(m2m100 / "sentencepiece.bpe.model")
    stock, tokenizer = M2M100Tokenizer(*files, src_lang="en"), load_tokenizer(m2m100)
    for text in [*texts(0, 1, 100), *texts(1, 1, 100), *ODD]:
        assert tokenizer(text)["input_ids"] == stock(text)["input_ids"][1:], text
    for language in ("en", "de", "zh"):
        found = tokenizer.convert_tokens_to_ids(f"__{language}__")
        assert found == stock.get_lang_id(language)


@pytest.mark.parametrize("size", [1, 40, 700])
def test_a_file_that_ends_early_is_named(marian, tmp_path, size):
    whole = (marian / "source.spm").read_bytes()
    cut = tmp_path / "source.spm"
    cut.write_bytes(whole[:size])
    with pytest.raises(ModelError, match=r"source\.spm: is no SentencePiece file"):
        read_pieces(cut)


def test_what_is_no_such_file_is_named(tmp_path):
    path = tmp_path / "source.spm"
    for content in (b"", b"\xff" * 40, b"hello there", b"\x0a\x03abc" * 5):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"source\.spm"):
            read_pieces(path)


def field(number, content):
    """A field of a protocol buffer message that holds bytes."""
    size = len(content)
    return bytes([number << 3 | 2, size & 127 | 128, size >> 7 & 127 | 128, size >> 14]) + content


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (field(1, field(1, b"a" * 300)), "is no SentencePiece file"),
        (field(1, field(1, b"\xff")), "is no SentencePiece file"),
        (field(1, field(1, b"a")) + field(2, b"\x18\x09"), "algorithm 9"),
        (field(1, field(1, b"a")) + field(3, field(2, b"abc")), "no tokenizer that can be used"),
        (field(1, field(1, b"a") + b"\x15\x00\x00\xc0\x7f"), "the score of a piece is nan"),
        (field(1, field(1, b"a")) + field(1, field(1, b"b") + b"\x18\x04"), "of the user's"),
        (field(1, field(1, b"a")) + field(1, field(1, b"b") + b"\x18\x06"), "has bytes"),
        (field(1, field(1, b"a")) + field(2, b"\xc0\x01\x01"), "at the ends of words"),
        (field(1, field(1, b"a")) + field(3, b"\x20\x00"), "spaces as they stand"),
        (field(1, field(1, "a\u2581b".encode())), "over several words"),
    ],
)
def test_hostile_files_are_refused(marian, tmp_path, content, reason):
    for file in marian.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "source.spm").write_bytes(content)
    with pytest.raises(ModelError, match=reason):
        load_tokenizer(tmp_path)


def changed(marian, folder, **files):
    """A copy of a Marian's folder, some of its files with other content."""
    for file in marian.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_a_piece_that_is_too_long_for_tokenizers_is_refused(marian, tmp_path):
    ids = json.loads((marian / "vocab.json").read_text())
    ids["z" * 200_000] = len(ids)
    with pytest.raises(ModelError, match="200,000 in one piece"):
        load_tokenizer(changed(marian, tmp_path, vocab=ids))
    path = tmp_path / "tokenizer.json"
    vocab = [["<unk>", 0.0], ["z" * 200_000, -1.0]]
    path.write_text(json.dumps({"model": {"type": "Unigram", "unk_id": 0, "vocab": vocab}}))
    with pytest.raises(ModelError, match="a piece of 200,000 characters"):
        read_tokenizer(path)


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
def test_tokens_that_somebody_added_are_kept(marian, tmp_path):
    from transformers import MarianTokenizer

    stock = MarianTokenizer.from_pretrained(marian)
    stock.add_tokens(["zebra"])
    stock.add_special_tokens({"additional_special_tokens": ["<2fr>"]})
    stock.save_pretrained(tmp_path)
    size = json.loads((marian / "config.json").read_text())["vocab_size"] + 2
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "marian", "vocab_size": size}))
    tokenizer = load_tokenizer(tmp_path)
    for text in ("<2fr> a zebra dog", "a dog"):
        assert tokenizer(text)["input_ids"] == stock(text)["input_ids"]
    ours = encode_text(target_side(tokenizer), "Ein zebra", special=False).token_ids
    assert ours.tolist() == stock(text_target="Ein zebra")["input_ids"][:-1]


def test_an_added_token_with_another_id_is_refused(marian, tmp_path):
    with pytest.raises(ModelError, match=r'the added token "x1" has the id 900'):
        load_tokenizer(changed(marian, tmp_path, added_tokens={"x1": 900}))


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
def test_letters_and_their_marks_are_put_together_as_the_library_does(tmp_path):
    from transformers import MarianTokenizer

    lines = ["tiếng việt níṣẹ́ ガラス が 한국 ～ über"] * 20
    for name in ("source", "target"):
        made = trained(tmp_path / name, lines, "unigram", 60, bos_id=-1, eos_id=0, unk_id=1)
        made.rename(tmp_path / f"{name}.spm")
    pieces = ["</s>", "<unk>", *read_pieces(tmp_path / "source.spm").scores, "<pad>"]
    (tmp_path / "vocab.json").write_text(json.dumps({p: n for n, p in enumerate(pieces)}))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    config = {"model_type": "marian", "vocab_size": len(pieces)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    stock, tokenizer = MarianTokenizer.from_pretrained(tmp_path), load_tokenizer(tmp_path)
    for form in ("NFC", "NFD"):
        for word in lines[0].split():
            text = unicodedata.normalize(form, word)
            assert tokenizer(text)["input_ids"] == stock(text)["input_ids"], (form, word)
    assert tokenizer("ｶﾞﾗｽ")["input_ids"] == stock("ガラス")["input_ids"]


def test_all_files_of_a_vocabulary_are_fetched_from_the_hub():
    from fnmatch import fnmatch

    assert all(any(fnmatch(name, each) for each in FETCHED) for name in VOCABULARIES)


@pytest.mark.parametrize("change", [{"x": 3}, {"</s>": 7}, {"</s>": "0"}])
def test_a_vocabulary_with_holes_is_refused(marian, tmp_path, change):
    for file in marian.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    ids = json.loads((marian / "vocab.json").read_text()) | change
    (tmp_path / "vocab.json").write_text(json.dumps(ids))
    with pytest.raises(ModelError, match="the ids from 0 on"):
        load_tokenizer(tmp_path)


def test_sides_with_ids_of_their_own_are_refused(marian, tmp_path):
    for file in marian.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "target_vocab.json").write_text("{}")
    with pytest.raises(ModelError, match="ids of their own"):
        load_tokenizer(tmp_path)


def test_a_published_marian_is_tuned_saved_and_loaded_by_the_library(marian, tmp_path):
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, MarianConfig, MarianMTModel

    import tunewright as tw

    published = tmp_path / "published"
    size = json.loads((marian / "config.json").read_text())["vocab_size"]
    config = MarianConfig(
        vocab_size=size, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=16,
        decoder_ffn_dim=16, encoder_attention_heads=2, decoder_attention_heads=2, eos_token_id=0,
        pad_token_id=size - 1, decoder_start_token_id=size - 1, max_position_embeddings=64,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        MarianMTModel(config).save_pretrained(published)
    for file in marian.iterdir():
        if file.name != "config.json":
            (published / file.name).write_bytes(file.read_bytes())
    rows = [
        {"source": source, "target": target}
        for source, target in zip(texts(1, 2, 24), texts(0, 2, 24), strict=True)
    ]
    run = tw.train(
        rows, task="translation", model=str(published), max_steps=2, batch_size=8, max_length=32,
        max_new_tokens=8, precision="fp32", folder=str(tmp_path / "runs"), track=(),
        tell=lambda event: None,
    )  # fmt: skip
    loaded = tw.load(run.path, precision="fp32")
    assert isinstance(loaded.predictor.tokenizer, TwoSided)
    (found,) = loaded.predict(["a dog runs"])
    model = AutoModelForSeq2SeqLM.from_pretrained(run.folder.model)
    tokenizer = AutoTokenizer.from_pretrained(run.folder.model)
    ids = model.generate(**tokenizer("a dog runs", return_tensors="pt"), max_new_tokens=8)
    assert tokenizer.decode(ids[0], skip_special_tokens=True).strip() == found.text
