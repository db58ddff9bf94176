from __future__ import annotations

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from tunewright.errors import DataError, ModelError
from tunewright.models.text.chat_template import PLAIN_TEMPLATE, check_template, render
from tunewright.types import Message

TURNS = (
    Message("system", "Be brief."),
    Message("user", "Hello {{ 7 * 7 }} <b>"),
    Message("assistant", "Hi!"),
    Message("user", "Bye."),
)
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for m in messages %}\n"
    "    {% set content = '<|' + m['role'] + '|>\n\n' + m['content'] | trim + '</s>' %}\n"
    "    {%- if not loop.last %}{{ content }}{% else %}{{ content ~ loop.length }}{% endif %}\n"
    "{% endfor %}"
)
NAMESPACED = (
    "{% set ns = namespace(n=0, seen=false) %}{% macro say(m) %}[{{ m.content | tojson }}]"
    "{% endmacro %}{% for m in messages[::-1] %}{% if m.role == 'user' and not ns.seen %}"
    "{% set ns.seen = true %}{% set ns.n = ns.n + loop.index0 * 2 %}{% endif %}{{ say(m) }}"
    "{% endfor %}{{ ns.n }} {{ messages | length }} {{ range(3) | join(',') }}"
    "{{ messages[0].content.split(' ')[-1].upper() }} {{ -1 if ns.n == 0 else ns.n % 3 }}"
)
MARKED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{% endgeneration %}{% else %}{% continue %}{% endif %}{% endfor %}"
)


TOOLED = (
    "{% if tools is not none %}never{% endif %}{% if documents is not none %}never{% endif %}"
    "{{ messages[2].content }}"
)


@pytest.mark.parametrize(
    "template",
    [CHATML, LLAMA, NAMESPACED, MARKED, TOOLED, PLAIN_TEMPLATE],
    ids=["chatml", "llama", "namespaced", "marked", "tooled", "plain"],
)
@pytest.mark.parametrize("prompt", [True, False])
def test_a_rendering_is_that_of_transformers(template, prompt):
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    ours = render(template, TURNS, add_generation_prompt=prompt, special=special)
    theirs, _ = render_jinja_template(
        [[turn.to_json() for turn in TURNS]],
        chat_template=template,
        add_generation_prompt=prompt,
        **special,
    )
    assert ours == theirs[0]
    assert "Hi!" in ours


ENDLESS = {
    "nested loops": "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}"
    "{% endfor %}",
    "long loops": "{% for a in range(999999) %}{{ a }}{% endfor %}{% for a in messages %}"
    "{% endfor %}",
    "recursive loops": "{% for c in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "recursive macros": "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "joined texts": "{% set n = namespace(x='aa') %}{% for a in range(99) %}"
    "{% set n.x = n.x ~ n.x %}{% endfor %}",
    "added texts": "{% set n = namespace(x='aa') %}{% for a in range(99) %}"
    "{% set n.x = n.x + n.x %}{% endfor %}",
    "added lists": "{% set n = namespace(x=[1]) %}{% for a in range(99) %}"
    "{% set n.x = n.x + n.x %}{% endfor %}",
    "set blocks": "{% set n = namespace(x='aa') %}{% for a in range(99) %}{% set y %}{{ n.x }}"
    "{{ n.x }}{% endset %}{% set n.x = y %}{% endfor %}",
    "replaced texts": "{% set n = namespace(x='aa') %}{% for a in range(99) %}"
    "{% set n.x = n.x | replace('a', 'aaa') %}{% endfor %}",
    "repeated texts": "{{ 'a' * 1000000000 }}",
    "large numbers": "{{ 9 ** 99999999 }}",
    "products": "{% set n = namespace(x=9) %}{% for a in range(99) %}"
    "{% set n.x = n.x * n.x %}{% endfor %}",
    "widths": "{{ 'a'.ljust(999999999) }}",
    "format methods": "{{ '{:999999999}'.format(1) }}",
    "width filters": "{{ 'a' | center(999999999) }}",
    "formats": "{{ '%999999999d' % 1 }}",
    "indents": "{{ messages | tojson(indent=99999999) }}",
    "slices": "{{ [1, 2] | batch(99999999, 1) | list }}",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_without_end_is_stopped(name):
    with pytest.raises(ModelError, match="chat template"):
        render(ENDLESS[name], TURNS, add_generation_prompt=True)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='x') }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{% import 'os' as x %}",
        "{{ cycler.__init__.__globals__ }}",
        "{% include '/etc/passwd' %}",
        "{{ messages[0].content.encode().__reduce__() }}",
    ],
)
def test_a_template_cannot_reach_out(template):
    with pytest.raises((ModelError, DataError)):
        render(template, TURNS, add_generation_prompt=True)


def test_a_template_that_refuses_a_conversation_is_heard():
    template = "{{ raise_exception('Roles must alternate.') }}"
    with pytest.raises(DataError) as caught:
        render(template, TURNS, add_generation_prompt=True, where="chats.jsonl, line 3")
    assert str(caught.value) == (
        "chats.jsonl, line 3: the model's chat template refuses it (Roles must alternate.). It "
        "says which turns it takes."
    )


def test_a_template_is_checked_before_it_is_used():
    with pytest.raises(ModelError) as caught:
        check_template("{% for", "models/x")
    assert str(caught.value).startswith(
        "models/x: its chat template cannot be used (TemplateSyntaxError: "
    )
    with pytest.raises(ModelError, match="has 200,001 characters"):
        check_template("a" * 200_001, "models/x")


def test_the_plain_template_does_without_an_end_token():
    assert render(PLAIN_TEMPLATE, TURNS[2:3], add_generation_prompt=False) == "Assistant: Hi!\n\n"


def test_today_is_the_same_day_every_day():
    text = render("{{ strftime_now('%d %B %Y') }}", TURNS, add_generation_prompt=False)
    assert text == "26 July 2024"


def test_a_long_conversation_is_no_endless_one():
    turns = [Message("user", "word " * 100), Message("assistant", "word " * 100)] * 1000
    assert len(render(CHATML, turns, add_generation_prompt=True)) > 1_000_000
