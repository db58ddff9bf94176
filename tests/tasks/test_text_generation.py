from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.models.test_chat_template import CHATML
from tests.tasks.examples import rows_of
from tests.training.loops import CPU, build_loop, gradients
from tunewright.answers import Reply
from tunewright.data.auditing.audit import AuditConfig, audit
from tunewright.errors import DataError, ModelError, SettingsError
from tunewright.models.batch import pack
from tunewright.models.files.folder import put_generation, save_model
from tunewright.models.generating.generation import Generation
from tunewright.models.text.chat_tokens import ANSWER, TEXT
from tunewright.models.text.tokenizers import load_tokenizer
from tunewright.prediction.predictor import Predictor
from tunewright.run.loaded import TrainedModel
from tunewright.tasks.text_classification import TextClassification
from tunewright.tasks.text_generation import TextGeneration
from tunewright.types import Message

CHAT = [
    {"role": "user", "content": "a good film?"},
    {"role": "assistant", "content": "the film was good"},
    {"role": "user", "content": "and the book?"},
    {"role": "assistant", "content": "bad"},
]
ROWS = [
    {"messages": CHAT},
    {"prompt": "a game?", "completion": "the match"},
    {"prompt": "say", "input": "the film", "completion": "a film"},
]
DECODERS = ("gpt2", "llama", "qwen2", "qwen3", "smollm3")


@pytest.fixture
def folder(tiny_folder):
    return tiny_folder("llama")


@pytest.fixture
def tokenizer(folder):
    return load_tokenizer(folder)


def learned(values, **settings):
    return TextGeneration(**settings).learn(rows_of(values)).within(128)


def text(tokenizer, features):
    return tokenizer.decode(features.streams["text"].token_ids)


def marked(tokenizer, features):
    stream = features.streams["text"]
    return tokenizer.decode(np.asarray(stream.token_ids)[np.asarray(stream.type_ids) > 0])


def predictor(folder, task, generation=None, seed=0):
    tokenizer = load_tokenizer(folder)
    model, _ = task.build(folder, tokenizer, dropout=0.0, seed=seed)
    task.route(model)
    settings = generation or Generation(max_new_tokens=5)
    return Predictor(task, model, tokenizer, CPU, generation=settings)


# Rows


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "Add 1.\n\n2"}], "completion": "3"},
        {"messages": [{"from": "human", "value": "Add 1.\n\n2"}, {"from": "gpt", "value": "3"}]},
        {"prompt": "Add 1.", "input": "2", "completion": "3"},
        {"prompt": "Add 1.", "input": 2, "completion": 3},
        {"prompt": [{"role": "user", "content": "Add 1.\n\n2"}],
         "completion": [{"role": "assistant", "content": "3"}]},
    ],
    ids=["messages", "sharegpt", "alpaca", "numbers", "two columns of turns"],
)  # fmt: skip
def test_every_form_of_a_row_gives_the_same_sequence(row, tokenizer):
    (features,) = learned([row]).encode(rows_of([row])[0], tokenizer)
    assert text(tokenizer, features) == "User: Add 1.\n\n2\n\nAssistant: 3<|endoftext|>"
    assert marked(tokenizer, features) == " 3<|endoftext|>"


def test_a_prompt_template_and_a_system_s_turn_stand_around_the_prompt(tokenizer):
    row = {"prompt": "{input}", "input": "b", "completion": "c"}
    task = learned([row], prompt_template="<{input}|{prompt}>", system="be good")
    (features,) = task.encode(rows_of([row])[0], tokenizer)
    assert text(tokenizer, features) == (
        "System: be good\n\nUser: <b|{input}>\n\nAssistant: c<|endoftext|>"
    )
    own = rows_of([{**row, "system": "be brief"}])[0]
    assert text(tokenizer, task.encode(own, tokenizer)[0]).startswith("System: be brief\n")


def test_plain_text_is_learnt_whole_in_windows_that_share_a_token(tokenizer):
    row = rows_of([{"text": "the film was good and the book was bad"}])[0]
    whole = learned([row.values]).encode(row, tokenizer)
    windows = learned([row.values], max_length=5).encode(row, tokenizer)
    (ids,) = [item.streams["text"].token_ids.tolist() for item in whole]
    assert tokenizer.decode(ids) == "the film was good and the book was bad<|endoftext|>"
    pieces = [item.streams["text"].token_ids.tolist() for item in windows]
    assert pieces[0] + [token for piece in pieces[1:] for token in piece[1:]] == ids
    assert {len(piece) for piece in pieces[:-1]} == {5}
    assert [item.num_repeated for item in windows] == [0] + [1] * (len(windows) - 1)
    assert all(set(item.streams["text"].type_ids) == {TEXT} for item in windows)


def test_the_answers_of_a_conversation_or_the_last_one_are_learnt(tokenizer):
    row = rows_of([{"messages": CHAT}])[0]
    (every,) = learned([row.values]).encode(row, tokenizer)
    (last,) = learned([row.values], learn_from="last answer").encode(row, tokenizer)
    assert marked(tokenizer, every) == " the film was good<|endoftext|> bad<|endoftext|>"
    assert marked(tokenizer, last) == " bad<|endoftext|>"
    assert text(tokenizer, every) == text(tokenizer, last)


def test_what_does_not_fit_is_cut_alike_in_training_and_in_use_and_counted(tokenizer):
    full = {"prompt": "the film " * 60, "completion": "good"}
    task = learned([full], max_length=60, answer_length=20)
    (trained,) = task.encode(rows_of([full])[0], tokenizer)
    (used,) = task.encode(rows_of([{"prompt": full["prompt"]}])[0], tokenizer)
    length = used.num_tokens
    assert 30 < length <= 40
    assert (
        trained.streams["text"].token_ids[:length].tolist()
        == used.streams["text"].token_ids.tolist()
    )
    assert trained.num_cut == used.num_cut > 60
    assert marked(tokenizer, trained) == " good<|endoftext|>"


def test_a_long_answer_is_cut_and_counted(tokenizer):
    row = {"prompt": "a", "completion": "the film " * 60}
    (features,) = learned([row], max_length=60).encode(rows_of([row])[0], tokenizer)
    (whole,) = learned([row], max_length=128).encode(rows_of([row])[0], tokenizer)
    assert features.num_tokens == 60
    assert features.num_cut - whole.num_cut == whole.num_tokens - 60


@pytest.mark.parametrize("long_one", ["prompt", "completion"])
def test_a_conversation_that_is_too_long_can_be_an_error(tokenizer, long_one):
    row = {"prompt": "a", "completion": "good"} | {long_one: "the film " * 60}
    task = learned([row], long="error", max_length=60)
    with pytest.raises(DataError) as caught:
        task.encode(rows_of([row])[0], tokenizer)
    assert str(caught.value).startswith("rows.csv, line 2: it has ")
    assert 'task.long="truncate"' in str(caught.value)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "a", "completion": " "},
        {"prompt": "a"},
        {"text": "\u200b"},
        {"messages": CHAT[:1]},
        {"messages": [*CHAT[:1], {"role": "assistant", "content": ""}]},
    ],
    ids=["blank", "missing", "blank text", "only asked", "empty turn"],
)
def test_rows_without_anything_to_learn_are_refused_before_training(row):
    with pytest.raises(DataError) as caught:
        TextGeneration().learn(rows_of([ROWS[1], row, row]))
    assert str(caught.value) == (
        "rows.csv: 2 of 3 rows hold nothing to learn (lines 3, 4). An answer that is not empty, "
        "or a text, is needed in each. Remove these rows, or name the column with "
        "data.columns.completion=COLUMN."
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"prompt_template": "Summarise:"},
            "[task]: task.prompt_template is 'Summarise:'. The prompt stands where it says "
            "{prompt}, and an input where it says {input}.",
        ),
        (
            {"answer_length": 128},
            "[task]: task.answer_length is 128, and task.max_length 128. Something must be left "
            "for what stands before the answer.",
        ),
        (
            {"max_length": 200},
            "[task]: task.max_length is 200. The model reads at most 128 tokens. Use "
            "task.max_length=128 or a model that reads more.",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(SettingsError) as caught:
        TextGeneration(**settings).within(128)
    assert str(caught.value) == message


def test_plain_text_has_no_answers_to_write():
    with pytest.raises(SettingsError, match="the data is plain text"):
        TextGeneration(write_answers=True).learn(rows_of([{"text": "a"}]))


# Models


def test_an_encoder_cannot_write(tiny_folder, tokenizer):
    with pytest.raises(ModelError) as caught:
        TextGeneration().build(tiny_folder("bert"), tokenizer, dropout=None, seed=0)
    assert str(caught.value).endswith(
        "bert reads a text from both sides. Writing needs a decoder such as llama, qwen3 or gpt2. "
        "Name another model, such as smollm2."
    )


@pytest.mark.parametrize("architecture", DECODERS)
def test_every_decoder_runs_packed_with_the_library_s_loss(architecture, tiny_folder):
    folder, task = tiny_folder(architecture), learned(ROWS)
    tokenizer = load_tokenizer(folder)
    model, _ = task.build(folder, tokenizer, dropout=0.0, seed=0)
    assert task.route(model) == "packed"
    rows = rows_of(ROWS)
    batch = pack([item for row in rows for item in task.encode(row, tokenizer)])
    loss = task.loss(task.forward(model, batch), batch)
    model.set_attn_implementation("sdpa")
    total, count = 0.0, 0
    for row in rows:
        (item,) = task.encode(row, tokenizer)
        stream = item.streams["text"]
        ids = torch.tensor(np.array(stream.token_ids)[None]).long()
        marks = torch.tensor(np.array(stream.type_ids)[None])
        labels = ids.where(marks == ANSWER, -100)
        with torch.no_grad():
            mean = model(input_ids=ids, labels=labels).loss
        total, count = (
            total + float(mean) * int((labels != -100).sum()),
            count + int((labels != -100).sum()),
        )
    assert loss.count == count
    assert float(loss.sum.detach()) == pytest.approx(total, rel=1e-5)


def test_a_conversation_in_two_updates_pieces_gives_one_gradient(folder):
    task = learned(ROWS)
    whole = gradients(build_loop(folder, task, rows_of(ROWS)))
    pieces = gradients(build_loop(folder, task, rows_of(ROWS), max_tokens=1))
    for name, gradient in whole.items():
        torch.testing.assert_close(pieces[name], gradient, atol=1e-4, rtol=1e-4, msg=name)


def test_an_answer_is_what_stock_transformers_writes(folder, tmp_path):
    """From the saved folder alone: template, ends and settings of writing come with it."""
    ours = predictor(folder, learned(ROWS), Generation(max_new_tokens=8))
    put_generation(ours.model, ours.generation)
    save_model(ours.model, ours.tokenizer, tmp_path / "saved")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    for row in rows_of([{"messages": CHAT[:3]}, {"prompt": "a game?"}]):
        turns = row.values.get("messages") or [{"role": "user", "content": "a game?"}]
        inputs = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        made = model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
        (answer,) = ours.answers([row])
        assert answer.text == tokenizer.decode(made, skip_special_tokens=True).strip()
        assert answer.num_tokens == len(made)


def test_a_model_learns_its_answers(folder):
    rows = rows_of(ROWS)
    loop = build_loop(folder, learned(ROWS), rows, steps=80, learning_rate=5e-3)
    assert [event.loss for event in loop.run()][-1] < 0.1
    trained = Predictor(
        loop.task, loop.model, load_tokenizer(folder), CPU, generation=Generation(max_new_tokens=12)
    )
    answers = list(trained.answers(rows))
    assert [answer.text for answer in answers] == ["bad", "the match", "a film"]
    assert {answer.finish_reason for answer in answers} == {"stop"}
    (asked,) = trained.answers(rows_of([{"messages": CHAT[:1]}]))
    assert asked.text == "the film was good"


def test_known_answers_are_measured_and_written_only_where_it_is_asked_for(folder):
    rows = rows_of(ROWS)
    quiet = Predictor(**{**vars(predictor(folder, learned(ROWS))), "examining": True})
    loud = Predictor(
        **{**vars(predictor(folder, learned(ROWS, write_answers=True))), "examining": True}
    )
    measured, written = list(quiet.answers(rows)), list(loud.answers(rows))
    assert [answer.text for answer in measured] == ["", "", ""]
    assert all(answer.text for answer in written)
    for ours, theirs in zip(measured, written, strict=True):
        assert (ours.num_known, ours.num_right) == (theirs.num_known, theirs.num_right)
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)
    task = loud.task
    statistics = task.stack(task.statistics(*pair) for pair in zip(written, rows, strict=True))
    found = task.reduce(statistics)
    assert set(found) == {spec.name for spec in task.metrics}
    assert set(quiet.task.reduce(statistics)) == {"perplexity", "token_accuracy"}


def test_perplexity_is_the_exponential_of_the_mean_loss():
    task = TextGeneration()
    replies = [Reply("", 1.0, loss=2.0, num_known=1), Reply("", 1.0, loss=1.0, num_known=3)]
    rows = rows_of([{"prompt": "a", "completion": "b"}] * 2)
    stacked = task.stack(task.statistics(*pair) for pair in zip(replies, rows, strict=True))
    assert task.reduce(stacked)["perplexity"] == pytest.approx(math.exp(3 / 4))


def test_an_answer_that_is_written_word_for_word_has_full_marks():
    task = TextGeneration(write_answers=True)
    rows = rows_of([{"prompt": "a", "completion": "a headline of a film"}])
    stacked = task.stack([task.statistics(Reply("a headline of a film", 1.0), rows[0])])
    found = task.reduce(stacked)
    assert found["rougeL"] == found["rouge2"] == found["chrf"] == pytest.approx(100)


def test_a_row_without_an_answer_is_not_measured_and_that_is_said():
    task = TextGeneration(write_answers=True)
    known, plain, asked = rows_of(
        [{"prompt": "a", "completion": "a headline"}, {"text": "a headline"}, {"prompt": "a"}]
    )
    replies = [Reply("a headline", 1.0, num_known=n) for n in (2, 2, 0)]
    pairs = zip(replies, (known, plain, asked), strict=True)
    stacked = task.stack(task.statistics(*pair) for pair in pairs)
    assert task.reduce(stacked)["rougeL"] == task.reduce(stacked)["chrf"] == pytest.approx(100)
    assert task.measured_as(stacked) == [
        "1 of 3 rows: no answer among the tokens that are read; perplexity and token accuracy "
        "leave them out.",
        "2 of 3 rows: no answer to be written; ROUGE and chrF leave them out.",
    ]
    del stacked["has_answer"]  # as older versions stored it
    assert task.reduce(stacked)["rougeL"] == pytest.approx(100 / 3)


def test_the_chat_template_of_a_model_is_used_and_kept(folder, tmp_path):
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = CHATML
    task = learned(ROWS)
    model, notices = task.build(folder, tokenizer, dropout=0.0, seed=0)
    assert not any("chat template" in notice for notice in notices)
    save_model(model, tokenizer, tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").chat_template == CHATML


def test_stop_sequences_end_an_answer(folder):
    ours = predictor(folder, learned(ROWS), Generation(max_new_tokens=30))
    (answer,) = ours.answers(rows_of([{"prompt": "a game?"}]))
    mark = answer.text[len(answer.text) // 2 :][:2]
    ended = Predictor(
        ours.task, ours.model, ours.tokenizer, CPU,
        generation=Generation(max_new_tokens=30, stop=mark),
    )  # fmt: skip
    (short,) = ended.answers(rows_of([{"prompt": "a game?"}]))
    assert short.text == answer.text[: answer.text.find(mark)].strip()
    assert short.finish_reason == "stop"


def test_a_turn_that_is_no_answer_is_answered(folder):
    ours = predictor(folder, learned(ROWS))
    turns = [Message("user", "a game?").to_json()]
    (plain,) = ours.answers(rows_of([{"prompt": "a game?"}]))
    (chat,) = ours.answers(rows_of([{"messages": turns}]))
    assert plain.text == chat.text
    assert plain.num_known == 0


def test_a_mistake_is_shown_by_what_was_asked():
    task = learned(ROWS)
    first, second, _ = rows_of(ROWS)
    assert task.shown(first) == (
        "user: a good film?\nassistant: the film was good\nuser: and the book?"
    )
    assert task.shown(second) == "user: a game?"
    assert task.shown(rows_of([{"text": "a film"}])[0]) == "a film"


def test_the_audit_does_not_take_an_instruction_without_input_for_a_blank_text():
    values = [{"prompt": "say a", "input": ""}, {"prompt": "say b", "input": " "}, {"prompt": ""}]
    found = audit(
        {"train": rows_of(values)},
        TextGeneration.text_roles,
        None,
        None,
        AuditConfig(),
        may_be_blank=TextGeneration.optional_texts,
    )
    assert found.splits[0].num_blank == 1


def test_a_bare_text_is_asked_whatever_the_model_was_trained_on(folder, tmp_path):
    ours = predictor(folder, learned([ROWS[0]]), Generation(max_new_tokens=4))
    model = TrainedModel(ours, folder, {"messages": "messages"})
    (bare,) = model.predict(["a game?"])
    (named,) = ours.answers(rows_of([{"prompt": "a game?"}]))
    assert bare.text == named.text


@pytest.mark.parametrize("architecture", DECODERS)
def test_decoders_classify_packed_by_their_last_token(architecture, tiny_folder):
    """The library's own head on each text alone gives the same scores."""
    folder = tiny_folder(architecture)
    rows = rows_of(
        [{"text": t, "label": f"{len(t) % 2}"} for t in ("a film", "the worst book", "no", "a")]
    )
    task = TextClassification().learn(rows).within(128)
    tokenizer = load_tokenizer(folder)
    model, _ = task.build(folder, tokenizer, dropout=0.0, seed=0)
    assert task.route(model) == "packed"
    features = [item for row in rows for item in task.encode(row, tokenizer)]
    with torch.no_grad():
        packed = task.forward(model, pack(features))["logits"]
        model.set_attn_implementation("sdpa")
        for logits, item in zip(packed, features, strict=True):
            ids = torch.tensor(np.array(item.streams["text"].token_ids)[None]).long()
            alone = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
            torch.testing.assert_close(logits, alone, atol=1e-5, rtol=1e-5)


def test_the_card_says_what_stock_libraries_have_to_be_given():
    assert TextGeneration().limits() == []
    prompt, system = TextGeneration(prompt_template="Say {prompt}", system="Be brief.").limits()
    assert prompt == (
        "A prompt stands in the user's turn as 'Say {prompt}'; stock libraries are given the "
        "whole turn."
    )
    assert system == (
        "Each conversation begins with the system's turn 'Be brief.'; stock libraries are given "
        "it, too."
    )
