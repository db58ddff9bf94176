from __future__ import annotations

import json

import pytest

from tunewright.errors import ModelError
from tunewright.models.files.sentence_folder import SentenceSettings, read_sentence_settings

SETTINGS = SentenceSettings("last", True, 128, "query: ", "passage: ")


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, SETTINGS)
    return tmp_path


def write(folder, settings):
    for name, text in settings.files(32).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("normalize", [True, False])
def test_what_is_written_is_read(tmp_path, pooling, normalize):
    settings = SentenceSettings(pooling, normalize, None, "", "text: ")
    write(tmp_path, settings)
    assert read_sentence_settings(tmp_path) == settings


def test_a_plain_encoder_has_no_settings(tmp_path):
    assert read_sentence_settings(tmp_path) is None


def test_the_names_of_version_six_are_read(folder):
    pooling = {"embedding_dimension": 32, "pooling_mode": "cls", "include_prompt": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    settings = read_sentence_settings(folder)
    assert settings is not None
    assert settings.pooling == "cls"


def test_a_pooling_that_is_not_done_here_is_refused_unless_another_is_chosen(folder):
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": ["mean", "max"]}')
    with pytest.raises(ModelError) as caught:
        read_sentence_settings(folder)
    assert str(caught.value) == (
        f'{folder}/1_Pooling/config.json: pools by "mean", "max". One of mean, cls and last token '
        "is done here, over the whole text. Choose task.pooling, or use another model."
    )
    chosen = read_sentence_settings(folder, "mean")
    assert chosen is not None
    assert chosen.pooling == "mean"


def test_a_pooling_without_the_prompt_is_refused(folder):
    (folder / "1_Pooling" / "config.json").write_text(
        '{"pooling_mode": "mean", "include_prompt": false}'
    )
    with pytest.raises(ModelError, match='pools by "mean" and leaves out the prompt'):
        read_sentence_settings(folder)


def test_a_module_that_is_not_known_is_refused(folder):
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"idx": 3, "name": "3", "path": "3_Dense", "type": "models.Dense"})
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelError) as caught:
        read_sentence_settings(folder)
    assert str(caught.value) == (
        f'{folder}/modules.json: names the modules "Transformer", "Pooling", "Normalize", "Dense". '
        'Only "Transformer", "Pooling", "Normalize" are known here. Remove the file to pool the '
        "encoder's tokens anew, or use another model."
    )


@pytest.mark.parametrize("text", ["{}", "[1]", "[", "[" * 100_000, "[]" + " " * 1_000_001])
def test_a_damaged_list_of_modules_is_refused(folder, text):
    (folder / "modules.json").write_text(text)
    with pytest.raises(ModelError, match=r"modules\.json: is not a list of modules"):
        read_sentence_settings(folder)


def test_a_path_out_of_the_folder_is_refused(folder):
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["path"] = "../1_Pooling"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelError, match=r'has the path "\.\./1_Pooling"'):
        read_sentence_settings(folder)
