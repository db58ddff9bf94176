"""Token classification. What every task promises is tested in test_contract.py."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from seqeval import metrics as seqeval
from seqeval.scheme import IOB1
from transformers import AutoModelForTokenClassification, pipeline

import tunewright as tw
from tests.tasks.examples import EXAMPLES, rows_of
from tests.training.loops import CPU
from tunewright.answers import Entities, Entity
from tunewright.data.cells.tags import spans_of, tags_of
from tunewright.errors import DataError, SettingsError
from tunewright.models.batch import pack
from tunewright.models.heads import probe_stream
from tunewright.models.text.tokenizers import load_tokenizer
from tunewright.prediction.predictor import Predictor
from tunewright.tasks import base
from tunewright.tasks.shared.words import joined, read_places, read_tagged, word_of
from tunewright.tasks.token_classification import IGNORED, TokenClassification

VALUES = EXAMPLES["token-classification"]
ROWS = rows_of(VALUES)


def learned(rows=ROWS, limit=128, **given):
    return TokenClassification(**given).within(limit).learn(rows)


def predictor(task, folder, seed=0):
    tokenizer = load_tokenizer(folder)
    model, _ = task.build(folder, tokenizer, dropout=0.0, seed=seed)
    task.route(model)
    return Predictor(task, model, tokenizer, CPU)


# Words and places


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("José García", ["José", "García"]),
        ("Jose\u0301 Garci\u0301a", ["Jose\u0301", "Garci\u0301a"]),
        ("हिन्दी है", ["हिन्दी", "है"]),
        ("Mi\u00adchael \ufeffA\u200bda\u200f!", ["Mi\u00adchael", "A", "da", "!"]),
        ("❤\ufe0f NY", ["❤\ufe0f", "NY"]),
        ("\u0301a", ["\u0301", "a"]),
        ("电影2023年", ["电", "影", "2023", "年"]),
    ],
)
def test_marks_belong_to_the_character_that_they_stand_on(text, words):
    (row,) = rows_of([{"text": text}])
    assert [text[a:b] for a, b in read_tagged(row).words] == words


@pytest.mark.parametrize(
    ("text", "entity"),
    [
        ("Jose\u0301 Garci\u0301a met Bo", "Jose\u0301 Garci\u0301a"),
        ("in हिन्दी today", "हिन्दी"),
        ("of A\u200bda", "A\u200bda"),
        ("Ada\x00 Bo left", "Ada\x00 Bo"),
    ],
)
@pytest.mark.parametrize("crf", [False, True])
def test_what_was_marked_is_found_by_a_model_that_is_sure(tiny_folder, text, entity, crf):
    start = text.index(entity)
    end = start + len(entity)
    (row,) = rows_of([{"text": text, "entities": [[start, end, "a"]]}])
    task = learned([row], crf=crf)
    parts = []
    for item in task.encode(row, load_tokenizer(tiny_folder("bert"))):
        tags = torch.as_tensor(item.targets["tags"])
        logits = torch.zeros(len(tags), len(task.tags))
        logits[tags != IGNORED, tags[tags != IGNORED]] = 9.0
        steps = task._crf(tiny_folder("bert"), ()).steps if crf else None
        parts.append((item.streams["text"], logits, steps))
    with torch.no_grad():
        (found,) = task.join(parts, row).entities
    assert (found.start, found.end, found.label) == (start, end, "a")


def test_rows_without_labels_are_named_and_may_be_dropped(tmp_path, tiny_folder):
    rows = [
        {"text": "Ada met Bo", "entities": [[0, 3, "person"]]},
        {"text": "nobody", "entities": []},
        {"text": "Bo left", "entities": None},
    ] * 4
    settings = {"task": "token-classification", "model": tiny_folder("bert"), "max_steps": 1,
                "num_resamples": 10, "folder": str(tmp_path), "track": ()}  # fmt: skip
    with pytest.raises(DataError, match=r'column "entities" is empty in 4 of 12 rows'):
        tw.train(rows, **settings)
    run = tw.train(rows, drop_unlabelled=True, **settings)
    notices = run.folder.read_json("run.json")["notices"]
    assert "list: 4 rows without a label dropped (data.drop_unlabelled)." in notices
    assert 'train: words are tagged by the scheme BIO, with the labels "person".' in notices
    with pytest.raises(DataError, match="it has no column tags or entities"):
        run.evaluate([{"text": "Ada"}])


def test_edges_that_no_word_has_are_told_of(tiny_folder):
    rows = rows_of(
        [
            {"text": "Ada met Bo", "entities": [[0, 4, "a"], [8, 10, "a"]]},
            {"text": "10mg of it", "entities": [[0, 2, "b"]]},
        ]
    )
    task = learned(rows)
    tokenizer = load_tokenizer(tiny_folder("bert"))
    _, notices = task.build(tiny_folder("bert"), tokenizer, dropout=0.0, seed=0)
    assert notices[-2:] == (
        "train: 1 mark began or ended with blanks, which are left out.",
        "train: the edges of 1 mark stand inside a word. The model answers with whole words, so it "
        "cannot be right there.",
    )
    assert read_tagged(rows[0]).marks == [(0, 3, "a"), (8, 10, "a")]
    (odd,) = rows_of([{"text": "\ufeffخانه\u200c b", "entities": [[0, 6, "a"]]}])
    found = read_tagged(odd)
    assert (found.marks, found.num_trimmed, found.num_inside) == ([(1, 5, "a")], 1, 0)


@pytest.mark.parametrize(
    ("tags", "shown"),
    [
        (["B_PER", "I_PER", "O"], "B_PER"),
        (["PER-B", "PER-I", "O"], "PER-B"),
        (["b-PER", "i-PER", "o"], "b-PER"),
        (["B-PER", "I-PER", "o"], "o"),
    ],
)
def test_tags_of_a_scheme_that_are_written_otherwise_are_refused(tags, shown):
    with pytest.raises(DataError, match=f'its tags are written like "{shown}"'):
        learned(rows_of([{"tokens": ["a", "b", "c"], "tags": tags}]))


@pytest.mark.parametrize(
    "tags",
    [
        ["B-I", "I-I", "O"],
        ["NN-B", "VB", "O"],
        ["B-B", "I-B", "O"],
        ["vitamin-B", "vitamin-E", "O"],
    ],
)
def test_labels_may_look_like_marks(tags):
    assert learned(rows_of([{"tokens": ["a", "b", "c"], "tags": tags}])).labels


def test_numbers_without_names_are_told_of(tiny_folder):
    task = learned(rows_of([{"tokens": ["a", "b", "c"], "tags": [0, 1, 2]}]))
    tokenizer = load_tokenizer(tiny_folder("bert"))
    _, notices = task.build(tiny_folder("bert"), tokenizer, dropout=0.0, seed=0)
    assert notices[-1].startswith("train: the tags are numbers without names.")


@given(st.lists(st.text(st.sampled_from("ab很好!"), min_size=1, max_size=4), max_size=8))
def test_joined_words_stand_where_they_are_said_to(tokens):
    text, words = joined(tokens)
    assert [text[a:b] for a, b in words] == tokens


def test_chinese_characters_are_joined_without_spaces():
    assert joined(["电", "影", "film", "a"])[0] == "电影 film a"


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("architecture", ["bert", "roberta", "qwen2"])
@given(tokens=st.lists(st.sampled_from(["film", "xyz", "很", "!", "good"]), min_size=1, max_size=9))
def test_every_word_is_found_by_its_first_token_and_in_order(tiny_folder, architecture, tokens):
    row = rows_of([{"tokens": tokens}])[0]
    task = TokenClassification(labels=("a",), max_length=128)
    (features,) = task.encode(row, load_tokenizer(tiny_folder(architecture)))
    stream = features.streams["text"]
    words = word_of(read_tagged(row), stream)
    inside = [int(word) for word in words if word >= 0]
    assert sorted(set(inside)) == list(range(len(tokens)))
    assert inside == sorted(inside)


def test_only_the_first_token_of_a_word_learns_unless_all_shall(tiny_folder):
    tokenizer = load_tokenizer(tiny_folder("bert"))
    row = rows_of([{"tokens": ["xyz", "a"], "tags": ["B-a", "O"]}])[0]
    first, every = (
        TokenClassification(labels=("a",), max_length=64, label_all_tokens=each)
        .encode(row, tokenizer)[0]
        .targets["tags"]
        .tolist()
        for each in (False, True)
    )
    assert first == [IGNORED, 1, IGNORED, IGNORED, 0, IGNORED]
    assert every == [IGNORED, 1, 2, 2, 0, IGNORED]


def test_a_text_is_tagged_by_its_marks_even_inside_a_word(tiny_folder):
    tokenizer = load_tokenizer(tiny_folder("bert"))
    row = rows_of([{"text": "xyzfilm", "entities": [{"start": 0, "end": 2, "label": "a"}]}])[0]
    task = TokenClassification(labels=("a",), max_length=64, label_all_tokens=True)
    (features,) = task.encode(row, tokenizer)
    assert features.targets["tags"].tolist()[1:4] == [1, 2, 0]


# Learning


@pytest.mark.parametrize(
    ("tags", "scheme", "classes"),
    [
        (["B-b", "I-b", "B-a"], "BIO", ("O", "B-a", "I-a", "B-b", "I-b")),
        (["I-a", "B-a", "O"], "IOB1", ("O", "B-a", "I-a")),
        (["B-a", "M-a", "E-a"], "BMES", ("O", "B-a", "M-a", "E-a", "S-a")),
        (["a", "O", "b"], "IO", ("O", "a", "b")),
        (["B-a", "E-a", "S-a"], "BIOES", ("O", "B-a", "I-a", "E-a", "S-a")),
        (["B-a", "L-a", "U-a"], "BILOU", ("O", "B-a", "I-a", "L-a", "U-a")),
        (["I-a", "E-a", "E-a"], "IOE2", ("O", "I-a", "E-a")),
        (["VERB", "NOUN", "VERB"], "plain", ("NOUN", "VERB")),
    ],
)
def test_the_scheme_and_the_classes_are_learned(tags, scheme, classes):
    task = learned(rows_of([{"tokens": ["a", "b", "c"], "tags": tags}]))
    assert (task.scheme, task.tags) == (scheme, classes)


def test_iob1_learns_what_bio_learns(tiny_folder):
    tokenizer = load_tokenizer(tiny_folder("bert"))
    found = []
    for tags in (["I-a", "I-a", "B-a"], ["B-a", "I-a", "B-a"]):
        row = rows_of([{"tokens": ["a", "b", "c"], "tags": tags}])[0]
        found.append(learned([row]).encode(row, tokenizer)[0].targets["tags"].tolist())
    assert found[0] == found[1]


def targets_of(task, row, tokenizer):
    return [item.targets["tags"].tolist() for item in task.encode(row, tokenizer)]


def test_bare_labels_learn_what_lies_outside_too(tiny_folder):
    (row,) = rows_of([{"tokens": ["a", "film", "a"], "tags": ["O", "work", "O"]}])
    found = targets_of(learned([row]), row, load_tokenizer(tiny_folder("bert")))
    assert found == [[IGNORED, 0, 1, 0, IGNORED]]


def test_words_whose_tag_is_not_known_are_neither_learned_nor_judged(tiny_folder):
    (row,) = rows_of([{"tokens": ["a", "film", "a"], "tags": [-100, 3, 5]}])
    task = learned([row])
    assert task.labels == ("3", "5")
    found = targets_of(task, row, load_tokenizer(tiny_folder("bert")))
    assert found == [[IGNORED, IGNORED, 0, 1, IGNORED]]
    statistics = task.statistics(Entities((), ("5", "3", "3")), row)
    assert statistics["tokens"].tolist() == [1, 2]


@pytest.mark.parametrize("label_all_tokens", [False, True])
@given(limit=st.integers(8, 40), stride=st.integers(0, 12))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
def test_each_word_is_learned_in_the_one_window_where_it_is_read(
    tiny_folder, label_all_tokens, limit, stride
):
    tags = ["B-a", "I-a", "O", "B-b"] * 6
    (row,) = rows_of([{"tokens": ["film", "xyz", "a", "q!"] * 6, "tags": tags}])
    task = learned([row], limit, stride=stride, label_all_tokens=label_all_tokens)
    windows = task.encode(row, load_tokenizer(tiny_folder("bert")))
    text = read_tagged(row)
    places = read_places(text, [item.streams["text"] for item in windows])
    words = [int(word) for read_N in places for word in read_N if word >= 0]
    assert words == list(range(len(tags)))
    for read_N, item in zip(places, windows, strict=True):
        for word, target in zip(read_N, item.targets["tags"], strict=True):
            assert word < 0 or task.tags[target] == tags[word]
            assert word >= 0 or label_all_tokens or target == IGNORED


def test_a_crf_learns_a_text_in_windows_as_it_learns_it_whole(tiny_folder):
    (row,) = rows_of([{"tokens": ["film"] * 40, "tags": ["B-a", *["I-a"] * 39]}])
    found = []
    for limit in (64, 16):
        ours = predictor(learned([row], limit, crf=True, stride=4), tiny_folder("bert"))
        features = ours.task.encode(row, ours.tokenizer)
        batch = pack(features)
        logits = torch.ones(batch.num_tokens, 3)
        steps = ours.model.crf.steps._asdict()
        outputs = {"logits": logits} | {name: values[None] for name, values in steps.items()}
        with torch.no_grad():
            loss = ours.task.loss(outputs, batch)
        found.append((float(loss.sum), loss.count, len(features)))
    (whole, count, num_whole), (cut, count_cut, num_cut) = found
    assert (num_whole, num_cut > 3) == (1, True)
    assert (cut, count_cut) == (pytest.approx(whole), count)


def test_a_route_is_chosen_by_logits_and_not_by_what_a_crf_forbids(tiny_folder, monkeypatch):
    (row,) = rows_of([{"tokens": ["film"] * 3, "tags": ["B-a", "I-a", "O"]}])
    ours = predictor(learned([row], 16, crf=True), tiny_folder("bert"))
    seen = []
    monkeypatch.setattr(base, "choose_route", lambda model, forward: seen.append(forward) or "")
    ours.task.route(ours.model)
    (outputs,) = seen
    assert float(outputs(ours.model, probe_stream(ours.model.config)).detach().abs().max()) < 100
    assert float(ours.model.crf.steps.transitions.detach().min()) < -100


def test_classes_may_weigh_more_than_others(tiny_folder):
    rows = rows_of([{"tokens": ["a", "b", "c", "d"], "tags": ["O", "O", "B-a", "I-a"]}])
    assert learned(rows, class_weights="balanced").weights == (4 / 6, 4 / 3, 4 / 3)
    task = learned(rows, class_weights={"O": 0.5, "a": 2})
    assert task.weights == (0.5, 2.0, 2.0)
    features = task.encode(rows[0], load_tokenizer(tiny_folder("bert")))
    logits = torch.randn(len(features[0].streams["text"]), 3)
    loss = task.loss({"logits": logits}, pack(features))
    tags = torch.tensor(features[0].targets["tags"])
    expected = torch.nn.CrossEntropyLoss(torch.tensor(task.weights))(logits, tags)
    assert float(loss.sum) / loss.count == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("class_weights", "balanced", "weighs no classes"),
        ("label_all_tokens", True, "reads one token of each word"),
    ],
)
def test_what_a_crf_cannot_heed_is_refused_beside_it(name, value, what):
    with pytest.raises(SettingsError) as caught:
        TokenClassification(crf=True, **{name: value})
    assert str(caught.value) == (
        f"[task]: task.crf and task.{name} are both set. A CRF's loss is one of whole texts and "
        f"{what}. Leave one of them out."
    )


def test_tags_that_break_their_scheme_are_told_of(tiny_folder):
    tags = (["B-a", "O", "I-a"], ["B-a", "I-b", "O"], ["B-a", "I-a", "O"])
    task = learned(rows_of([{"tokens": ["a", "b", "c"], "tags": each} for each in tags]))
    _, notices = task.build(
        tiny_folder("bert"), load_tokenizer(tiny_folder("bert")), dropout=0.0, seed=0
    )
    assert notices[-1] == (
        "train: the tags of 2 rows break the scheme BIO, such as I- after O. They are read as "
        "seqeval's default mode reads them: what goes on with nothing begins an entity."
    )


@pytest.mark.parametrize("column", ["entities", "tags"])
def test_marks_of_a_text_may_stand_in_either_column(column):
    (row,) = rows_of([{"text": "Ada met", column: [[0, 3, "person"]]}])
    assert learned([row]).labels == ("person",)


def test_parts_of_speech_are_judged_by_accuracy_first():
    task = learned(rows_of([{"tokens": ["a", "b"], "tags": ["DET", "NOUN"]}]))
    assert [spec.name for spec in task.metrics[:2]] == ["accuracy", "f1"]
    assert learned().metrics[0].name == "f1"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"tokens": ["a", "b"], "tags": ["O"]},
            "rows.csv, line 2: it has 2 tokens and 1 tags. Each token has one tag. Correct the "
            "row, or remove it.",
        ),
        (
            {"tags": ["O"]},
            'rows.csv, line 2: it has neither tokens nor a text. One of the columns "tokens" and '
            '"text" is needed. Name it with data.columns.tokens or data.columns.text.',
        ),
        (
            {"tokens": "a b", "tags": ["O"]},
            "rows.csv, line 2: its tokens are 'a b'. A list of words is needed. Write it as "
            '["Ada", "met"], or name the column of whole texts with data.columns.text.',
        ),
        (
            {"tokens": '["a", "b"]', "tags": "O O"},
            "rows.csv, line 2: its tags are 'O O'. A list of tags is needed. Write it as "
            '["B-person", "O"], one for each token.',
        ),
        (
            {"text": "a film", "entities": "film"},
            "rows.csv, line 2: its entities are 'film'. A list of spans is needed. Write it as "
            '[[0, 3, "person"]], in characters of the text.',
        ),
        (
            {"tokens": ["a"], "tags": [None]},
            "rows.csv, line 2: a tag is None. A tag is a text or a whole number.",
        ),
        (
            {"tokens": ["a"], "tags": ["O"]},
            "the training data: no word has a tag. At least one is needed.",
        ),
        (
            {"text": "a film", "entities": [[0, 3, "x"], [2, 6, "y"]]},
            'rows.csv, line 2: the span 0 to 3 ("a f") and the span 2 to 6 ("film") overlap. Each '
            "character belongs to one span at most. Keep one of the two.",
        ),
    ],
)
def test_rows_that_cannot_be_learned_are_named(values, message):
    with pytest.raises(DataError) as caught:
        learned(rows_of([values]))
    assert str(caught.value) == message


@pytest.mark.parametrize("crf", [False, True])
def test_eight_rows_are_learned_by_heart(tiny_folder, tmp_path, crf):
    run = tw.train(VALUES * 12, task="token-classification", model=tiny_folder("bert"),
                   folder=str(tmp_path), num_train_epochs=25, learning_rate=5e-3, batch_size=8,
                   head_learning_rate=2e-2, dropout=0.0,
                   num_resamples=20, track=(), precision="fp32", crf=crf)  # fmt: skip
    assert run.metrics["f1"].value >= 0.9
    model = tw.load(run.folder.path)
    (tokens, text) = model.predict([VALUES[2], {"text": "the team won"}])
    assert tokens.tags == ("B-group", "I-group", "O")
    assert [(e.start, e.end, e.label, e.text) for e in text] == [(0, 8, "group", "the team")]
    assert text.tags is None
    assert (run.folder.model / "crf.safetensors").exists() == crf
    stock = load_file(run.folder.model / "model.safetensors")
    assert not [name for name in stock if "crf" in name]
    assert model.predict([VALUES[2]])[0].to_json()["entities"][0]["entity_group"] == "group"


def test_transitions_come_back_with_a_folder(tiny_folder, tmp_path):
    task = learned(crf=True)
    model, tokenizer = (
        predictor(task, tiny_folder("bert")).model,
        load_tokenizer(tiny_folder("bert")),
    )
    with torch.no_grad():
        model.crf.transitions.normal_()
    model.save_pretrained(tmp_path / "m")
    for name, content in task.extra_files(model).items():
        (tmp_path / "m" / name).write_bytes(content)
    again, _ = task.build(tmp_path / "m", tokenizer, dropout=0.0, seed=9)
    assert torch.equal(again.crf.transitions, model.crf.transitions)


# Answers


def test_a_bare_text_is_answered_by_a_model_that_learned_words(tiny_folder):
    assert TokenClassification.bare_roles == ("text",)
    asked = predictor(learned(ROWS[:3]), tiny_folder("bert"), seed=5)
    bare, words = asked.answers(
        rows_of([{"text": "the team won"}, {"tokens": VALUES[2]["tokens"]}])
    )
    assert (bare.entities, bare.tags) == (words.entities, None)


@pytest.mark.parametrize("crf", [False, True])
@pytest.mark.parametrize("architecture", ["bert", "roberta", "qwen2", "mpnet"])
def test_windows_give_the_tags_of_the_whole_text_where_windows_see_enough(
    tiny_folder, architecture, crf
):
    """Every word is answered, once, and the places are those of the whole text."""
    tokens = ["film", "good", "xyz", "很", "bank"] * 12
    whole = predictor(learned(crf=crf), tiny_folder(architecture))
    cut = predictor(learned(limit=24, stride=8, crf=crf), tiny_folder(architecture))
    rows = rows_of([{"tokens": tokens}])
    assert len(cut.task.encode(rows[0], cut.tokenizer)) > 3
    (long,), (short,) = list(whole.answers(rows)), list(cut.answers(rows))
    assert len(long.tags) == len(short.tags) == len(tokens)
    text, _ = joined(tokens)
    assert all(text[e.start : e.end] == e.text for e in [*long, *short])


def test_forbidden_tags_never_follow_one_another_with_a_crf(tiny_folder):
    found = predictor(learned(crf=True), tiny_folder("bert"), seed=3)
    for answer in found.answers(ROWS):
        for before, after in zip(("O", *(answer.tags or ())), answer.tags or (), strict=False):
            assert not after.startswith("I-") or before[2:] == after[2:]


def test_answers_are_those_of_the_library_s_pipeline(tiny_folder, tmp_path):
    task = learned()
    ours = predictor(task, tiny_folder("bert"), seed=5)
    ours.model.set_attn_implementation("sdpa")
    ours.model.save_pretrained(tmp_path)
    ours.tokenizer.save_pretrained(tmp_path)
    task.route(ours.model)
    model = AutoModelForTokenClassification.from_pretrained(tmp_path)
    stock = pipeline(
        "token-classification", model, tokenizer=ours.tokenizer, aggregation_strategy="first"
    )
    text = "the team won a good book and the bank card"
    expected = stock(text)
    (answer,) = ours.answers(rows_of([{"text": text}]))
    found = answer.to_json()["entities"]
    assert [(e["start"], e["end"], e["entity_group"]) for e in found] == [
        (e["start"], e["end"], e["entity_group"]) for e in expected
    ]
    for mine, theirs in zip(found, expected, strict=True):
        assert mine["score"] == pytest.approx(float(theirs["score"]), abs=1e-4)


def test_the_loss_is_that_of_the_library(tiny_folder):
    task = learned(ROWS[:6])
    ours = predictor(task, tiny_folder("bert"))
    features = [item for row in ROWS[:6] for item in task.encode(row, ours.tokenizer)]
    batch = pack(features)
    with torch.no_grad():
        loss = task.loss(task.forward(ours.model, batch), batch)
    model = ours.model
    model.set_attn_implementation("sdpa")
    total = count = 0.0
    for item in features:
        ids = torch.tensor(item.streams["text"].token_ids)[None].long()
        labels = torch.tensor(item.targets["tags"])[None]
        used = float((labels != IGNORED).sum())
        with torch.no_grad():
            total += float(model(input_ids=ids, labels=labels).loss) * used
        count += used
    assert (float(loss.sum), loss.count) == pytest.approx((total, count), rel=1e-5)


# Measuring


def entities(*found):
    return Entities(tuple(Entity(a, b, label, 0.9, "") for a, b, label in found))


def test_strict_scores_of_iob1_are_seqeval_s():
    (row,) = rows_of([{"tokens": ["a", "b", "c"], "tags": ["B-a", "O", "I-b"]}])
    task = TokenClassification(labels=("a", "b"), scheme="IOB1")
    right = Entities(entities((0, 1, "a"), (4, 5, "b")).entities, ("I-a", "O", "I-b"))
    found = task.reduce(task.stack([task.statistics(right, row)]))
    expected = seqeval.f1_score([["B-a", "O", "I-b"]], [[*right.tags]], mode="strict", scheme=IOB1)
    assert (found["f1"], found["f1_strict"]) == (1.0, pytest.approx(expected))
    assert expected < 1


@pytest.mark.parametrize("tags", [["S-a", "O", "B-b", "E-b"], ["U-a", "O", "B-b", "L-b"]])
def test_a_file_in_another_scheme_than_the_model_s_is_judged_as_the_same_entities(tags):
    (row,) = rows_of([{"tokens": ["a", "b", "c", "d"], "tags": tags}])
    task = TokenClassification(labels=("a", "b"), scheme="BIO")
    right = Entities(entities((0, 1, "a"), (4, 7, "b")).entities, ("B-a", "O", "B-b", "I-b"))
    found = task.reduce(task.stack([task.statistics(right, row)]))
    assert (found["f1"], found["f1_strict"], found["accuracy"]) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("tags", [["PER", "O"], ["B-per", "O"]])
def test_tags_of_another_form_are_unseen(tags):
    task = TokenClassification(labels=("PER",), scheme="BIO")
    row, right = rows_of(
        [{"tokens": ["Ada", "met"], "tags": each} for each in (tags, ["B-PER", "O"])]
    )
    assert task.unseen_label(row) == tags[0]
    assert task.unseen_label(right) is None


def test_how_many_entities_the_strict_scores_leave_out_is_said():
    task = TokenClassification(labels=("a", "b"), scheme="BIOES")
    answer = Entities(entities((0, 1, "a"), (4, 5, "b")).entities, ("S-a", "O", "S-b"))
    for tags, said in (
        (["S-a", "O", "S-b"], ()),
        (["B-a", "O", "S-b"], ("1 of 2 true entities are not tagged as BIOES tags them: the "
                              "strict scores leave them out, and accuracy compares their tags as "
                              "they are.",)),
    ):  # fmt: skip
        (row,) = rows_of([{"tokens": ["a", "b", "c"], "tags": tags}])
        assert task.measured_as(task.stack([task.statistics(answer, row)])) == said


def test_a_text_s_entities_are_compared_by_place_and_label():
    row = rows_of([{"text": "Ada met Bo.", "entities": [[0, 3, "a"], [8, 10, "b"]]}])[0]
    task = TokenClassification(labels=("a", "b"))
    right = entities((0, 3, "a"), (8, 10, "b"))
    assert task.severity(right, row) is None
    wrong = entities((0, 3, "b"))
    assert task.severity(wrong, row) == 3.0
    assert task.compared(wrong, row) == ("Ada (a); Bo (b)", "Ada (b)")
    found = task.reduce(task.stack([task.statistics(right, row), task.statistics(wrong, row)]))
    assert found["f1"] == pytest.approx(2 * 2 / (4 + 3))
    assert found["accuracy"] == pytest.approx((4 + 2) / 8)


def test_marks_inside_a_word_do_not_show_in_what_is_asked_of_the_model(tiny_folder):
    """The true marks of a row must not leak into its answer."""
    ours = predictor(learned(), tiny_folder("bert"), seed=5)
    plain, marked = ours.answers(
        rows_of([{"text": "goodfilm"}, {"text": "goodfilm", "entities": [[0, 4, "work"]]}])
    )
    assert plain == marked


@pytest.mark.parametrize(
    "tags",
    [
        ("I-a", "B-a", "O"),
        ("I-a", "E-a", "E-b"),
        ("U-a", "B-b", "L-b"),
        ("S-a", "B-b", "E-b"),
        ("a", "O", "b"),
    ],
)
def test_right_answers_are_right_in_every_scheme(tags):
    (row,) = rows_of([{"tokens": ["a", "b", "c"], "tags": list(tags)}])
    task = learned([row])
    answer = entities(*read_tagged(row).places(task.scheme))
    answer = Entities(answer.entities, tags)
    found = task.reduce(task.stack([task.statistics(answer, row)]))
    assert (found["f1"], found["f1_strict"], found["accuracy"]) == (1.0, 1.0, 1.0)
    assert task.severity(answer, row) is None


def test_iob1_is_answered_in_iob1(tiny_folder):
    rows = rows_of([{"tokens": ["a", "b", "c"], "tags": ["I-a", "I-a", "B-a"]}])
    found = predictor(learned(rows), tiny_folder("bert"), seed=1)
    for answer in found.answers(rows_of([{"tokens": ["film", "good", "bank", "xyz"]}] * 3)):
        spans = spans_of(answer.tags, "IOB1")
        assert list(answer.tags) == tags_of(spans, 4, "IOB1")
        assert len(spans) == len(answer)


def test_the_report_shows_which_labels_are_taken_for_one_another():
    task = TokenClassification(labels=("a", "b"))
    row = rows_of([{"text": "Ada met Bo.", "entities": [[0, 3, "a"], [8, 10, "b"]]}])[0]
    statistics = task.stack([task.statistics(entities((0, 3, "b")), row)])
    (_, table) = task.figures(statistics)
    assert list(table.rows) == [("a", "b", 1)]


def test_the_hardest_label_stands_first_in_the_report():
    task = TokenClassification(labels=("a", "b"))
    row = rows_of([{"text": "Ada met Bo.", "entities": [[0, 3, "a"], [8, 10, "b"]]}])[0]
    (table,) = task.figures(task.stack([task.statistics(entities((0, 3, "a")), row)]))
    assert [line[0] for line in table.rows] == ["b", "a"]


def test_of_several_rows_with_marks_out_of_place_all_are_counted():
    marks = ([[0, 3, "a"]], [[0, 30, "a"]], [[2, 2, "a"]])
    with pytest.raises(
        DataError, match=r"; 1 more row cannot be read, the next at rows\.csv, line 4"
    ):
        learned(rows_of([{"text": "Ada met Bo", "entities": each} for each in marks]))
