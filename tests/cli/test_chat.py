"""`tunewright chat`, with a tiny model, through standard input."""

from __future__ import annotations

import io
import json

import pytest

from tunewright.cli import run
from tunewright.models.text.chat_template import PLAIN_TEMPLATE


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory):
    """A tiny random model with a chat template, as a folder of another library."""
    from tests.tiny import tiny_model

    folder = tiny_model("llama", tmp_path_factory.mktemp("chat") / "model")
    (folder / "chat_template.jinja").write_text(PLAIN_TEMPLATE, encoding="utf-8")
    return str(folder)


@pytest.fixture
def talk(chat_model, monkeypatch, capsys):
    """Runs `chat` with these lines as standard input; returns (status, output, said)."""

    def talk(lines, *words):
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        status = run(["chat", chat_model, "max_new_tokens=6", *words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return talk


def test_each_line_is_answered_in_order(talk):
    status, out, said = talk(["a film?", "", "a book?"])
    assert status == 0
    assert len(out.splitlines()) >= 2
    assert said == ""


def test_json_lines_hold_the_answers(talk):
    _, out, _ = talk(["a film?", "a book?"], "--json")
    first, second = (json.loads(line) for line in out.splitlines())
    assert first["role"] == second["role"] == "assistant"
    assert first["content"] == first["generated_text"]
    assert first["finish_reason"] in ("stop", "length")
    _, shown, _ = talk(["a film?"])
    assert shown == first["content"] + "\n"


def test_reset_begins_a_new_conversation(talk):
    _, out, said = talk(["a film?", "a book?", "/reset", "a film?"], "--json")
    first, second, third = (json.loads(line)["content"] for line in out.splitlines())
    assert first == third
    assert first != second
    assert said == "The conversation is forgotten.\n"


def test_quit_ends_before_the_rest_is_read(talk):
    status, out, _ = talk(["/quit", "a film?"])
    assert (status, out) == (0, "")


def test_unknown_commands_are_named_and_help_shows_all(talk):
    _, out, said = talk(["/rset now", "/help"])
    assert out == ""
    assert said == (
        'There is no command "/rset". There is "/reset", "/quit", "/help".\n'
        "/reset forget the conversation, /quit end, /help show this.\n"
    )


def test_what_the_model_is_told_changes_its_answers(talk):
    _, plain, _ = talk(["a film?"], "--json")
    _, told, _ = talk(["a film?"], "--json", "--system", "a very bad bank")
    assert json.loads(plain)["content"] != json.loads(told)["content"]


def test_a_setting_of_another_section_is_refused(talk):
    status, _, said = talk(["a film?"], "learning_rate=1e-4")
    assert status == 2
    assert "training.learning_rate is given. What can be set here is [generation]." in said


def test_a_model_that_does_not_write_is_refused(tiny_folder, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n"))
    assert run(["chat", str(tiny_folder("bert", 2))]) == 2
    assert "there is no task.json" in capsys.readouterr().err


def test_predict_answers_prompts_in_their_order(chat_model, tmp_path, capsys):
    file = tmp_path / "prompts.jsonl"
    prompts = ["a film?", "a good book and a very good game?", "a bank?"]
    file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    assert run(["predict", chat_model, str(file), "max_new_tokens=4"]) == 0
    together = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["prompt"] for answer in together] == prompts
    for prompt, answer in zip(prompts, together, strict=True):
        file.write_text(json.dumps({"prompt": prompt}) + "\n")
        run(["predict", chat_model, str(file), "max_new_tokens=4"])
        alone = json.loads(capsys.readouterr().out)
        assert alone["generated_text"] == answer["generated_text"]
        assert answer["num_tokens"] <= 4
