r"""Chat templates: from the turns of a conversation to the text that a model reads.

    render(template, [Message("user", "Hi")], add_generation_prompt=True)
    ->  "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"

A template is code in Jinja's language that came with a model, so it is not trusted: it runs in
Jinja's immutable sandbox, as in transformers, and with limits to what it may repeat and make, so
that it ends soon and in little memory. What it is given and how it is read is transformers' way,
but for today's date: a template that asks for it gets one that never changes, so that a row is
encoded alike every time.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache, wraps
from typing import Any

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tunewright.errors import DataError, ModelError
from tunewright.types import Message

# Published templates take up to 20,000 characters.
MAX_TEMPLATE_CHARACTERS = 200_000
# A template goes through its turns a few times; the longest conversation that is read has 10,000.
MAX_ROUNDS = 1_000_000
# Everything that a template makes on its way, in characters or items, beyond what it was given.
MAX_MADE = 10_000_000
MAX_NUMBER = 1_000_000_000

TODAY = datetime(2024, 7, 26)  # the date that Llama 3's template falls back to

# For models that have none: readable, and every answer ends with the end token.
PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ 'Assistant: ' + message['content'] + (eos_token or '') + '\\n\\n' }}"
    "{% else %}"
    "{{ message['role'] | capitalize + ': ' + message['content'] + '\\n\\n' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


class TooMuch(Exception):
    """A template repeats or makes more than it may."""


class _Budget:
    """What one rendering may still repeat and make."""

    def __init__(self) -> None:
        self.start(0)

    def start(self, given: int) -> None:
        self.rounds = MAX_ROUNDS
        self.made = MAX_MADE + 20 * given

    def bounded(self, items: Any) -> Iterator[Any]:
        """Yields what a loop goes through, counting."""
        for item in items:
            self.rounds -= 1
            if self.rounds < 0:
                raise TooMuch(f"it repeats more than {MAX_ROUNDS:,} times")
            yield item

    def counted(self, value: Any) -> Any:
        """Returns a value that was made, its size counted."""
        if isinstance(value, str | list | tuple | dict | bytes):
            self.made -= len(value)
            if self.made < 0:
                raise TooMuch("it makes texts without end")
        return value

    def small(self, *values: Any) -> None:
        """Refuses numbers that could ask for a huge text, such as a width."""
        for value in values:
            if isinstance(value, int) and abs(value) > MAX_NUMBER:
                raise TooMuch("it counts without end")
            if isinstance(value, int) and not isinstance(value, bool) and value > self.made:
                raise TooMuch("it makes texts without end")


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, in which loops, calls, filters and operators count against a budget."""

    intercepted_binops = frozenset({"+", "*", "**", "%", "//", "-"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, jinja2.ext.loopcontrols],
        )
        self.budget = _Budget()
        self.filters = {name: self._limited(each) for name, each in self.filters.items()}
        self.filters["tojson"] = self._limited(_to_json)
        self.filters["_bounded"] = self.budget.bounded
        self.filters["_counted"] = self.budget.counted
        self.globals["raise_exception"] = _raise
        self.globals["strftime_now"] = TODAY.strftime
        self.globals["range"] = _range
        for name in ("lipsum", "cycler", "joiner"):
            del self.globals[name]
        del self.filters["format"]  # a width such as %999999999d makes a text at once

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """Lets every loop and every joining of texts pass through the budget."""
        template = super()._parse(source, name, filename)
        for loop in list(template.find_all(nodes.For)):
            loop.iter = _filtered(loop.iter, "_bounded")  # type: ignore[arg-type]
        for block in list(template.find_all(nodes.AssignBlock)):
            block.filter = _filtered(block.filter, "_counted")
        for parent in [template, *template.find_all(nodes.Node)]:
            for field, value in parent.iter_fields():
                if isinstance(value, nodes.Concat):
                    setattr(parent, field, _filtered(value, "_counted"))
                elif isinstance(value, list):
                    value[:] = [
                        _filtered(x, "_counted") if isinstance(x, nodes.Concat) else x
                        for x in value
                    ]
        return template

    def wrap_str_format(self, value: Any) -> None:
        """Leaves str.format to `is_safe_attribute`: a width in it makes a text at once."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return attr not in {"format", "format_map"} and super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Operates on numbers, and joins texts and lists; nothing else could stay small."""
        if operator == "+":
            return self.budget.counted(left + right)
        if not (isinstance(left, int | float) and isinstance(right, int | float)):
            raise TooMuch(f"it uses {operator} on what is no number")
        self.budget.small(left, right)
        if operator == "**" and abs(right) > 64:
            raise TooMuch("it counts without end")
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.budget.rounds -= 1
        if self.budget.rounds < 0:
            raise TooMuch(f"it repeats more than {MAX_ROUNDS:,} times")
        self.budget.small(*args, *kwargs.values())
        return self.budget.counted(super().call(context, function, *args, **kwargs))

    def _limited(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Returns a filter that refuses huge numbers and counts what it makes."""

        @wraps(function)  # keeps what Jinja marks filters with
        def limited(*args: Any, **kwargs: Any) -> Any:
            self.budget.small(*args, *kwargs.values())
            made = function(*args, **kwargs)
            return (
                self.budget.bounded(made)
                if isinstance(made, Iterator)
                else (self.budget.counted(made))
            )

        return limited


class _Generation(jinja2.ext.Extension):
    """The block that marks what the model says: its content is kept as it stands."""

    tags = {"generation"}  # noqa: RUF012 - so Jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _filtered(node: nodes.Expr | None, name: str) -> nodes.Filter:
    made = nodes.Filter(node, name, [], [], None, None)
    made.set_lineno(node.lineno if node is not None else 1)
    return made


def _range(*args: int) -> list[int]:
    numbers = range(*args)
    if len(numbers) > MAX_ROUNDS:
        raise TooMuch(f"it repeats more than {MAX_ROUNDS:,} times")
    return list(numbers)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


@lru_cache(maxsize=64)
def _compiled_by(thread: int, template: str) -> tuple[_Sandbox, jinja2.Template]:
    sandbox = _Sandbox()
    return sandbox, sandbox.from_string(template)


def _compiled(template: str) -> tuple[_Sandbox, jinja2.Template]:
    """Returns a template, and the sandbox that counts what it does, of this thread alone."""
    return _compiled_by(threading.get_ident(), template)


def check_template(template: str, where: str) -> None:
    """Raises ModelError when a template is too long or is not in Jinja's language."""
    if len(template) > MAX_TEMPLATE_CHARACTERS:
        raise ModelError(
            where,
            f"its chat template has {len(template):,} characters",
            f"It may have at most {MAX_TEMPLATE_CHARACTERS:,}.",
        )
    try:
        _compiled(template)
    except (jinja2.TemplateSyntaxError, RecursionError) as error:
        raise _unusable(where, error) from error


def render(
    template: str,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool,
    where: str = "a conversation",
    special: Mapping[str, str] | None = None,
) -> str:
    """Returns the text of a conversation; `special` are the tokens that a template may name.

    Raises DataError when the template refuses the conversation in its own words, such as for two
    turns of one side; ModelError when it cannot be used or does more than it may.
    """
    try:
        sandbox, compiled = _compiled(template)
        sandbox.budget.start(sum(len(message.content) for message in messages))
        pieces = compiled.generate(
            messages=[message.to_json() for message in messages],
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **(special or {}),
        )
        return "".join(_while_small(pieces, sandbox.budget))
    except TooMuch as error:
        raise ModelError("the chat template", str(error), "It is not used.") from error
    except jinja2.TemplateSyntaxError as error:
        raise _unusable("the model", error) from error
    except jinja2.exceptions.SecurityError as error:
        raise _unusable("the model", error) from error
    except jinja2.TemplateError as error:
        raise DataError(
            where,
            f"the model's chat template refuses it ({error})",
            "It says which turns it takes.",
        ) from error
    except (ArithmeticError, LookupError, MemoryError, RecursionError, TypeError, ValueError) as e:
        raise _unusable("the model", e) from e


def _while_small(pieces: Iterable[str], budget: _Budget) -> Iterator[str]:
    for piece in pieces:
        yield str(budget.counted(piece))


def _unusable(where: str, error: BaseException) -> ModelError:
    reason = " ".join(str(error).split())
    return ModelError(
        where,
        f"its chat template cannot be used ({type(error).__name__}: {reason})",
        "",
        "Use the model's own template.",
    )
