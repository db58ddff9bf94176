"""Captions: what a row may hold, a captioner from nothing end to end, and models of the library."""

from __future__ import annotations

import base64
import io
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoTokenizer
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from tests.tasks.examples import EXAMPLES, SETTINGS, picture, rows_of
from tests.training.loops import CPU, build_loop
from tunewright.answers import Generated
from tunewright.errors import DataError, SettingsError
from tunewright.metrics.translation import best_constant, chrf_counts, chrf_of
from tunewright.models.batch import pack
from tunewright.models.files.folder import check_model_folder
from tunewright.models.generating.generation import Generation
from tunewright.models.text.tokenizers import load_tokenizer
from tunewright.prediction.predictor import Predictor
from tunewright.run.config import compose
from tunewright.run.export import export
from tunewright.run.loaded import load
from tunewright.run.record import ABOUT
from tunewright.run.resuming.resume import resume
from tunewright.run.train import train
from tunewright.tasks.image_captioning import ImageCaptioning
from tunewright.training.order import VARY, generator_of

ROWS = rows_of(EXAMPLES["image-captioning"])
FORM = SETTINGS["image-captioning"]["form"]


@pytest.fixture
def tokenizer(tiny_folder):
    return load_tokenizer(tiny_folder("tunewright-captioner"))


@pytest.fixture
def task():
    return ImageCaptioning(form=FORM)


# What a row holds --------------------------------------------------------------------------------


def test_a_path_counts_from_the_file_that_the_row_stands_in(task, tokenizer, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(picture(1))
    (row,) = rows_of([{"image": "images/a.png"}])
    row = type(row)(0, row.values, str(tmp_path / "rows.jsonl"), 3)
    (features,) = task.encode(row, tokenizer)
    (other,) = task.encode(rows_of([{"image": picture(1)}])[0], tokenizer)
    found, expected = features.pictures["image"], other.pictures["image"]
    assert np.array_equal(found.pixels(), expected.pixels())
    assert np.array_equal(found.digest, expected.digest)
    assert found.pixels().shape == (3, 16, 16)
    assert len(found) == features.num_tokens == 16


def test_a_broken_picture_is_named_with_its_row_and_its_path(task, tokenizer, tmp_path):
    path = tmp_path / "half.png"
    path.write_bytes(picture(1)[:60])
    with pytest.raises(DataError, match=rf"^rows.csv, line 2, {path}: its picture is broken"):
        task.encode(rows_of([{"image": str(path)}])[0], tokenizer)


def test_pictures_are_decoded_when_a_batch_is_packed_and_not_before(task, tokenizer, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(picture(1))
    features = task.encode(rows_of([{"image": str(path), "caption": "a"}])[0], tokenizer)
    assert pack(features).pictures["image"].pixels_BCHW.shape == (1, 3, 16, 16)
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        pack(features)


def test_an_empty_caption_is_an_error_that_names_its_row(task):
    with pytest.raises(DataError) as caught:
        task.learn(rows_of([{"image": picture(1), "caption": " "}]))
    assert str(caught.value) == (
        "rows.csv, line 2: its caption is empty. Every row needs one to train. Remove these rows, "
        "or pass data.drop_unlabelled=true."
    )


def test_too_strong_a_change_is_refused():
    with pytest.raises(SettingsError, match=r"task.augmentation is 4.0. It must be from 0 to 3"):
        ImageCaptioning(augmentation=4.0)


def test_what_was_done_to_pictures_is_told(task, tokenizer):
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    encoded = [task.encode(row, tokenizer) for row in rows_of([{"image": png(clear)}] * 3)]
    encoded += [task.encode(row, tokenizer) for row in ROWS]
    assert task.remarks("train", encoded) == [
        "train: 3 pictures with transparent parts, which lie on white."
    ]


def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_the_audit_finds_the_same_picture_under_two_names(task, tmp_path):
    for name, number in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / f"{name}.png").write_bytes(picture(number))
    rows = rows_of([{"image": str(tmp_path / f"{name}.png")} for name in "abc"])
    found = [row.values["image"] for row in task.audited(rows)]
    assert found[0] == found[1] != found[2]
    assert [row.values["image"] for row in task.audited(rows)[1:]] == found[1:]


# Augmentation ------------------------------------------------------------------------------------


def varied(task, tokenizer, seed=0, epoch=0, row=0):
    (features,) = task.encode(ROWS[row], tokenizer)
    return task.vary(features, generator_of(VARY, seed, epoch, row)).pictures["image"].pixels()


def test_a_picture_is_varied_by_seed_epoch_and_row_alone(task, tokenizer):
    first = varied(task, tokenizer)
    assert np.array_equal(first, varied(task, tokenizer))
    for other in ({"seed": 1}, {"epoch": 1}):
        assert not np.array_equal(first, varied(task, tokenizer, **other))


def test_one_of_several_captions_is_drawn_for_each_epoch(task, tokenizer):
    (row,) = rows_of([{"image": picture(0), "caption": ["the film", "a book", "game"]}])
    (features,) = task.encode(row, tokenizer)
    assert features.num_tokens == 16 + 3
    drawn = set()
    for epoch in range(30):
        item = task.vary(features, generator_of(VARY, 0, epoch, 0))
        assert list(item.targets) == ["label"]
        label = item.targets["label"].tolist()
        assert item.streams["target"].token_ids.tolist() == [1, *label[:-1]]
        drawn.add(tokenizer.decode(label, skip_special_tokens=True))
    assert drawn == {"the film", "a book", "game"}


def test_without_augmentation_a_picture_stays_as_it_is(tokenizer):
    (features,) = ImageCaptioning(form=FORM).encode(ROWS[0], tokenizer)
    plain = features.pictures["image"].pixels()
    assert np.array_equal(varied(ImageCaptioning(form=FORM, augmentation=0), tokenizer), plain)


def test_only_training_varies_pictures(task, tiny_folder, tokenizer, monkeypatch):
    folder = tiny_folder("tunewright-captioner")
    loop = build_loop(folder, task.learn(ROWS), ROWS, steps=1)
    seen = []
    vary = ImageCaptioning.vary
    monkeypatch.setattr(
        ImageCaptioning, "vary", lambda self, item, rng: seen.append(1) or vary(self, item, rng)
    )
    list(Predictor(task, loop.model, tokenizer, CPU).answers(ROWS))
    assert not seen
    list(loop.run())
    assert len(seen) == len(ROWS)


# Metrics -----------------------------------------------------------------------------------------


def test_the_constant_caption_is_the_one_that_does_best():
    references = [["smiling face"], ["face with tears"], ["crying face"], ["dog"]]
    scores = {
        text: chrf_of(np.sum([chrf_counts(text, other) for other in references], axis=0))
        for (text,) in references
    }
    assert best_constant(references) == max(scores, key=scores.get)
    assert ImageCaptioning().learn(
        rows_of([{"image": b"", "caption": text} for (text,) in references])
    ).constant == best_constant(references)


def test_answers_are_measured_against_all_captions_beside_the_constant_one():
    task = ImageCaptioning(constant="a dog")
    first, second = rows_of(
        [{"image": b"", "caption": ["a cat", "the cat"]}, {"image": b"", "caption": "a dog"}]
    )
    pairs = [(Generated("the cat", 0.5), first), (Generated("a cow", 0.5), second)]
    found = task.reduce(task.stack(task.statistics(*pair) for pair in pairs))
    assert found["exact"] == 0.5
    assert 0 < found["constant_chrf"] < 100
    assert task.severity(*pairs[0]) is None
    assert 0 < task.severity(*pairs[1]) < 1
    assert any('"a dog"' in sentence for sentence in task.measured_as({}))


# Models of the library ---------------------------------------------------------------------------


@pytest.fixture(params=["vit-gpt2", "vit-bert"])
def published(request, tiny_folder):
    return tiny_folder(request.param)


def test_a_model_of_the_library_has_the_librarys_loss_and_writes_the_same(published):
    tokenizer = load_tokenizer(published)
    check_model_folder(published)
    task = ImageCaptioning(label_smoothing=0.0, augmentation=0).started_from(published)
    model, _ = task.build(published, tokenizer, dropout=None, seed=0)
    assert task.route(model).startswith("padded: vision-encoder-decoder has one boundary")
    rows = [type(row)(row.id, {**row.values, "caption": "the film"}) for row in ROWS]
    batch = pack([item for row in rows for item in task.encode(row, tokenizer)])
    loss = task.loss(task.forward(model, batch), batch)

    stock = AutoModelForImageTextToText.from_pretrained(published).eval()
    processor = ViTImageProcessorPil(size={"height": 16, "width": 16})
    images = [opened(row.values["image"]) for row in ROWS]
    pixels = processor(images, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(batch.pictures["image"].pixels_BCHW, pixels, atol=1e-5, rtol=0)
    target = batch.streams["target"]
    labels = torch.nn.utils.rnn.pad_sequence(
        batch.targets["label"].split(target.lengths), batch_first=True, padding_value=-100
    )
    start = torch.full((len(ROWS), 1), task.start_id)
    moved = torch.cat([start, labels[:, :-1].clamp(min=0)], 1)
    logits = stock(pixel_values=pixels, decoder_input_ids=moved).logits
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="sum"
    )
    torch.testing.assert_close(loss.sum, expected)
    assert loss.count == int((labels >= 0).sum())

    predictor = Predictor(task, model, tokenizer, CPU, generation=Generation(max_new_tokens=6))
    first = torch.tensor([[task.start_id, *task.frame(tokenizer).target[0]]] * len(ROWS))
    written = stock.generate(pixel_values=pixels, decoder_input_ids=first, max_new_tokens=6,
                             eos_token_id=tokenizer.eos_token_id, pad_token_id=0)  # fmt: skip
    stock_tokenizer = AutoTokenizer.from_pretrained(published)
    texts = stock_tokenizer.batch_decode(written[:, first.shape[1] :], skip_special_tokens=True)
    assert [answer.text for answer in predictor.answers(ROWS)] == [text.strip() for text in texts]


def opened(value):
    if isinstance(value, dict):
        value = value["bytes"]
    if isinstance(value, str):
        value = base64.b64decode(value.split(",")[1])
    return Image.open(io.BytesIO(value)).convert("RGB")


def test_dropout_reaches_both_parts_of_a_model_of_the_library(published):
    tokenizer = load_tokenizer(published)
    model, _ = ImageCaptioning().build(published, tokenizer, dropout=0.3, seed=0)
    rates = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {0.3}


def test_a_model_of_the_library_learns_and_is_loaded_again(published, tmp_path):
    start = tmp_path / "start"
    shutil.copytree(published, start)
    config = compose(
        {
            "task": {"name": "image-captioning", "label_smoothing": 0.0},
            "model": {"name": str(start)},
            "training": {"max_steps": 4, "batch_size": 4, "precision": "fp32", "track": []},
            "evaluation": {"num_resamples": 0},
            "data": {"split": {"validation": 0, "test": 0}},
            "generation": {"max_new_tokens": 4},
            "output": {"folder": str(tmp_path)},
        }
    )
    rows = [{"image": picture(number), "caption": "the film"} for number in range(8)]
    finished = train({"train": rows}, config)
    answers = load(finished.folder.model).predict([picture(1)])
    assert len(answers) == 1
    assert json.loads((finished.path / ABOUT).read_text())["route"].startswith("padded")


def test_an_adapter_is_merged_into_a_captioner(tiny_folder, tmp_path):
    start = tmp_path / "start"
    shutil.copytree(tiny_folder("tunewright-captioner"), start)
    config = compose(
        {
            "task": {"name": "image-captioning"},
            "model": {"name": str(start)},
            "adapter": {"name": "lora"},
            "training": {"max_steps": 2, "batch_size": 4, "precision": "fp32", "track": []},
            "data": {"split": {"validation": 0, "test": 0}},
            "output": {"folder": str(tmp_path)},
        }
    )
    rows = [{"image": picture(number), "caption": "the film"} for number in range(8)]
    finished = train({"train": rows}, config)
    parity = export(finished.path, tmp_path / "merged")
    assert parity.largest_difference <= parity.tolerance
    pictures = [picture(number) for number in range(3)]
    answers = [load(place).predict(pictures) for place in (finished.path, tmp_path / "merged")]
    assert [a.text for a in answers[0]] == [a.text for a in answers[1]]


# End to end --------------------------------------------------------------------------------------

COLOURS = {"red": (220, 20, 20), "green": (20, 160, 40), "blue": (30, 60, 220)}


def discs(folder, count):
    """Files of coloured discs and squares, and what they are."""
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    rows = []
    for number in range(count):
        colour, square = rng.choice(list(COLOURS)), bool(rng.integers(2))
        image = Image.new("RGB", (24, 24), "white")
        left, top = rng.integers(0, 12, 2).tolist()
        if square:
            image.paste(COLOURS[colour], (left, top, left + 10, top + 10))
        else:
            y, x = np.mgrid[:24, :24]
            disc = (x - left - 5) ** 2 + (y - top - 5) ** 2 <= 25
            image.paste(COLOURS[colour], mask=Image.fromarray(disc.astype(np.uint8) * 255))
        image.save(folder / f"{number}.png")
        name = "square" if square else "disc"
        rows.append({"image": f"{folder.name}/{number}.png", "caption": f"a {colour} {name}"})
    return rows


def settings_of(folder, **training):
    return compose(
        {
            "task": {"name": "image-captioning", "label_smoothing": 0.0, "augmentation": 0.5},
            "model": {
                "name": "new:1x64",
                "new": {"vocab_size": 300, "image_size": 16, "patch_size": 4},
            },
            "training": {
                "num_train_epochs": 12,
                "learning_rate": 5e-3,
                "batch_size": 16,
                "precision": "fp32",
                "dropout": 0.1,
                "track": [],
                **training,
            },
            "generation": {"max_new_tokens": 8},
            "output": {"folder": str(folder / "runs")},
        }
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("discs")
    rows = discs(folder / "images", 160)
    file = folder / "captions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def finished(data):
    return train({"train": str(data)}, settings_of(data.parent))


def test_a_new_captioner_learns_to_name_shapes_and_colours(finished):
    assert finished.metrics["chrf"].value > finished.metrics["constant_chrf"].value + 20
    assert json.loads((finished.path / ABOUT).read_text())["route"] == "packed"
    assert any("constant_chrf is that of" in notice for notice in finished.result.notices)


def test_it_answers_paths_bytes_and_pictures_alike(finished, data):
    model = load(finished.folder.model)
    path = data.parent / "images" / "0.png"
    image = Image.open(path)
    answers = model.predict([str(path), path, path.read_bytes(), image])
    assert len({answer.text for answer in answers}) == 1
    assert [answer.text for answer in model.predict(str(data))[:1]] == [answers[0].text]
    assert answers[0].to_json().keys() == {
        "generated_text", "score", "finish_reason", "num_tokens",
    }  # fmt: skip


def test_predictions_name_their_pictures(finished):
    lines = (finished.folder.evaluation / "predictions.jsonl").read_text().splitlines()
    assert all(json.loads(line)["image"].startswith("images/") for line in lines)


def test_lines_of_paths_are_answered_and_bytes_are_not_written_out(finished, data, monkeypatch):
    monkeypatch.chdir(data.parent)
    model = load(finished.folder.model)
    ((row, cells),) = model.rows_of(io.BytesIO(b"images/0.png\n"))
    assert cells == {"text": "images/0.png"}
    (answer,) = model.stream([row])
    table = pa.table({"image": [(data.parent / "images" / "0.png").read_bytes()]})
    pq.write_table(table, data.parent / "bytes.parquet")
    ((row, cells),) = model.rows_of(str(data.parent / "bytes.parquet"))
    assert cells == {"image": f"{len(row.values['image']):,} bytes"}
    assert [other.text for other in model.stream([row])] == [answer.text]


def test_its_folder_writes_the_same_in_stock_transformers(finished, data):
    folder = finished.folder.model
    paths = [data.parent / "images" / f"{number}.png" for number in range(6)]
    values = json.loads((folder / "preprocessor_config.json").read_text())
    values.pop("image_processor_type")
    images = [Image.open(path).convert("RGB") for path in paths]
    inputs = ViTImageProcessorPil(**values)(images, return_tensors="pt")
    stock = AutoModelForImageTextToText.from_pretrained(folder)
    found = stock.generate(**inputs)
    expected = AutoTokenizer.from_pretrained(folder).batch_decode(found, skip_special_tokens=True)
    answers = load(folder, "fp32").predict(paths)
    assert [answer.text for answer in answers] == expected


def test_its_report_shows_the_best_and_the_worst_pictures(finished):
    page = finished.report.read_text()
    result = finished.result
    assert len(result.best) + len(result.worst) == result.num_rows <= 48
    assert page.count('<img src="data:image/jpeg;base64,') == result.num_rows
    assert "img-src data:" in page
    assert "Length and truncation" not in page
    assert f"Always answering “<bdi>{finished.task.constant}</bdi>”" in page
    assert result.best[0].severity == 0
    assert [each.severity for each in result.best] == sorted(each.severity for each in result.best)
    first = Image.open(io.BytesIO(base64.b64decode(result.best[0].picture)))
    assert (first.format, first.size) == ("JPEG", (24, 24))


def test_its_card_says_how_it_is_used(finished):
    card = (finished.folder.model / "README.md").read_text()
    assert "pipeline_tag: image-to-text" in card
    assert 'predict(["picture.png"])' in card
    assert "AutoModelForImageTextToText" in card
    assert "Transparent parts of pictures lie on white here" in card


def test_a_run_that_was_cut_off_ends_with_the_same_weights(data, tmp_path):
    runs = tmp_path / "cut"
    settings = settings_of(runs, max_steps=12, save_steps=4, save_minutes=1000)
    whole = train({"train": str(data)}, settings_of(tmp_path / "whole", max_steps=12))

    class Cut(Exception):
        pass

    def tell(event):
        if getattr(event, "step", 0) == 7 and hasattr(event, "loss"):
            raise Cut

    with pytest.raises(Cut):
        train({"train": str(data)}, settings, tell=tell)
    folder = next(path for path in (runs / "runs").iterdir() if (path / "checkpoints").exists())
    again = resume(folder, {"train": str(data)})
    for first, second in zip(
        *(sorted((run.folder.model).glob("*.safetensors")) for run in (whole, again)), strict=True
    ):
        assert first.read_bytes() == second.read_bytes()
