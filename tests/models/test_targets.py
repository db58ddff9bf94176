"""How encoder-decoders of every family are framed, and what they write."""

from __future__ import annotations

import pytest
import torch

from tests.tiny import WRITERS
from tunewright.errors import SettingsError
from tunewright.models.batch import pack
from tunewright.models.files.architecture import load_config
from tunewright.models.generating.generation import Generation
from tunewright.models.generating.targets import Frame, frame_of, language_id, write_targets
from tunewright.models.text.tokenizers import load_tokenizer
from tunewright.tasks import find_task
from tunewright.types import Row

PAD, BOS, EOS = 0, 1, 2


@pytest.fixture
def framed(tiny_folder):
    """Returns a function (architecture, languages) -> its frame, and its tokenizer."""

    def make(architecture, source=None, target=None):
        folder = tiny_folder(architecture)
        tokenizer, config = load_tokenizer(folder), load_config(folder)
        start = config.decoder_start_token_id
        return frame_of(tokenizer, config.model_type, start, source, target), tokenizer

    return make


@pytest.mark.parametrize(
    ("architecture", "around", "start"),
    [
        ("tunewright-transformer", ((), (EOS,)), BOS),
        ("t5", ((), (EOS,)), PAD),
        ("mt5", ((), (EOS,)), PAD),
        ("marian", ((), (EOS,)), PAD),
        ("bart", ((BOS,), (EOS,)), EOS),
    ],
)
def test_most_families_frame_both_texts_as_their_tokenizer_does(
    architecture, around, start, framed
):
    assert framed(architecture)[0] == Frame(around, around, start)


def test_m2m_begins_both_texts_with_their_language(framed):
    frame, tokenizer = framed("m2m_100", "en", "de")
    english, german = tokenizer.convert_tokens_to_ids(["__en__", "__de__"])
    assert frame == Frame(((english,), (EOS,)), ((german,), (EOS,)), EOS)


def test_mbart_ends_a_source_with_its_language_and_writes_from_the_target_s(framed):
    frame, tokenizer = framed("mbart", "en_XX", "de")
    english, german = tokenizer.convert_tokens_to_ids(["en_XX", "de_DE"])
    assert frame == Frame(((), (EOS, english)), ((), (EOS,)), german)


def test_mbart_50_begins_both_texts_with_their_language(framed):
    frame, tokenizer = framed("mbart-50", "en", "de")
    english, german = tokenizer.convert_tokens_to_ids(["en_XX", "de_DE"])
    assert frame == Frame(((english,), (EOS,)), ((german,), (EOS,)), EOS)


def test_a_language_that_is_missing_or_unknown_is_named(framed):
    with pytest.raises(SettingsError) as caught:
        framed("m2m_100", None, "de")
    assert str(caught.value) == (
        "task.source_language: it is not set. The model knows texts by their language: "
        '"__de__", "__en__". Name it, such as task.source_language=de.'
    )
    _, tokenizer = framed("m2m_100", "en", "de")
    with pytest.raises(SettingsError, match=r'knows no language "xx"\. It has "__de__", "__en__"'):
        language_id(tokenizer, "xx", "target_language")


# What is written ---------------------------------------------------------------------------------

FAMILIES = sorted(WRITERS)
ROWS = [
    Row(0, {"source": "the film is good", "target": "a book"}),
    Row(1, {"source": "stock", "target": "the worst film ever"}),
    Row(2, {"source": "the team won the game and the match", "target": "music"}),
]


@pytest.fixture
def writer(tiny_folder):
    """Returns a function (architecture) -> task, model and tokenizer."""

    def make(architecture):
        folder = tiny_folder(architecture)
        tokenizer = load_tokenizer(folder)
        task = find_task("translation")(source_language="en", target_language="de")
        task = task.started_from(folder).within(64)
        model, _ = task.build(folder, tokenizer, dropout=0.0, seed=0)
        return task, model.eval(), tokenizer

    return make


def batch_of(task, tokenizer, rows=ROWS):
    return pack([item for row in rows for item in task.encode(row, tokenizer)])


def texts_of(task, model, tokenizer, settings, rows=ROWS):
    features = [item for row in rows for item in task.encode(row, tokenizer)]
    with torch.no_grad():
        outputs = task.generate(model, pack(features), tokenizer, settings)
    return task.decode(outputs, features, tokenizer)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_logits_are_those_of_the_library_on_each_row_alone(architecture, writer):
    task, model, tokenizer = writer(architecture)
    batch = batch_of(task, tokenizer)
    found = task.forward(model, batch)["logits"].split(batch.streams["target"].lengths)
    labels = batch.targets["label"].split(batch.streams["target"].lengths)
    sources = batch.streams["source"].token_ids_N.split(batch.streams["source"].lengths)
    assert len(found) == 3
    for logits, label, source in zip(found, labels, sources, strict=True):
        start = torch.tensor([task.frame(tokenizer).start, *label[:-1]])
        theirs = model(input_ids=source[None], decoder_input_ids=start[None]).logits[0]
        torch.testing.assert_close(logits, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("architecture", FAMILIES)
@pytest.mark.parametrize("beams", [1, 3])
def test_texts_are_those_that_the_library_writes_for_each_row_alone(architecture, beams, writer):
    task, model, tokenizer = writer(architecture)
    settings = Generation(max_new_tokens=9, num_beams=beams)
    found = texts_of(task, model, tokenizer, settings)
    frame = task.frame(tokenizer)
    first = [frame.start, *frame.target[0]]
    for row, answer in zip(ROWS, found, strict=True):
        source = torch.tensor(task.encode(row, tokenizer)[0].streams["source"].token_ids)
        theirs = model.generate(
            source[None].long(),
            decoder_input_ids=torch.tensor([first]),
            decoder_start_token_id=frame.start,
            max_new_tokens=9,
            num_beams=beams,
        )[0, len(first) :]
        expected = tokenizer.decode(theirs, skip_special_tokens=True).strip()
        assert answer.text == expected
        assert 0 < answer.score < 1
        assert answer.num_tokens <= 9


def test_our_own_packed_model_writes_what_it_writes_padded(writer):
    task, model, tokenizer = writer("tunewright-transformer")
    settings = Generation(max_new_tokens=12, num_beams=4, no_repeat_ngram_size=2)
    padded = texts_of(task, model, tokenizer, settings)
    assert task.route(model) == "packed"
    packed = texts_of(task, model, tokenizer, settings)
    assert [answer.text for answer in packed] == [answer.text for answer in padded]
    assert [a.score for a in packed] == pytest.approx([a.score for a in padded], rel=1e-4)


@pytest.mark.parametrize("architecture", ["t5", "tunewright-transformer"])
def test_samples_depend_on_seed_and_row_and_not_on_the_batch(architecture, writer):
    task, model, tokenizer = writer(architecture)
    settings = Generation(max_new_tokens=6, do_sample=True, temperature=1.5, seed=3)
    together = [answer.text for answer in texts_of(task, model, tokenizer, settings)]
    alone = [texts_of(task, model, tokenizer, settings, [row])[0].text for row in ROWS]
    assert together == alone
    others = settings.model_copy(update={"seed": 4})
    assert [a.text for a in texts_of(task, model, tokenizer, others)] != together


def test_draws_have_the_model_s_probabilities(writer):
    task, model, tokenizer = writer("t5")
    rows = [Row(number, ROWS[0].values) for number in range(400)]
    settings = Generation(max_new_tokens=1, do_sample=True, top_k=2)
    batch = batch_of(task, tokenizer, rows[:1])
    likeliest = task.forward(model, batch)["logits"][0].topk(2)
    share = likeliest.values.softmax(0)[0].item()
    features = [task.encode(row, tokenizer)[0] for row in rows]
    written = write_targets(
        model,
        pack(features).streams["source"],
        range(400),
        [task.frame(tokenizer).start],
        tokenizer,
        settings,
    )
    drawn = [ids[0] for ids in written.token_ids]
    assert set(drawn) <= set(likeliest.indices.tolist())
    assert drawn.count(int(likeliest.indices[0])) / 400 == pytest.approx(share, abs=0.08)


@pytest.mark.parametrize("settings", [
    Generation(max_new_tokens=5, num_beams=4, num_return_sequences=3),
    Generation(max_new_tokens=5, do_sample=True, num_return_sequences=3),
])  # fmt: skip
def test_alternatives_follow_the_best_text(settings, writer):
    task, model, tokenizer = writer("tunewright-transformer")
    found = texts_of(task, model, tokenizer, settings)
    assert len(found) == 3
    for answer in found:
        assert len(answer.alternatives) == 2
        assert len({answer.text, *(other.text for other in answer.alternatives)}) == 3
        if settings.do_sample:
            scores = [answer.score, *(other.score for other in answer.alternatives)]
            assert scores == sorted(scores, reverse=True)


def test_a_text_that_is_cut_off_says_so(writer):
    task, model, tokenizer = writer("t5")
    (answer, *_) = texts_of(task, model, tokenizer, Generation(max_new_tokens=1))
    assert (answer.finish_reason, answer.num_tokens) == ("length", 1)


def test_no_run_of_tokens_is_repeated_where_that_is_forbidden(writer):
    task, model, tokenizer = writer("t5")
    batch = batch_of(task, tokenizer)
    settings = Generation(max_new_tokens=20, no_repeat_ngram_size=1)
    start = [task.frame(tokenizer).start]
    written = write_targets(model, batch.streams["source"], (0, 1, 2), start, tokenizer, settings)
    for ids in written.token_ids:
        assert len(set(ids)) == len(ids) > 1
