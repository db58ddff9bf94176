"""Finds out which column plays which role of a task, and makes a table its rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from types import MappingProxyType
from typing import Protocol, TypeVar

from tunewright.errors import DataError, SettingsError, listed, nearest
from tunewright.types import Role


@dataclass(frozen=True, slots=True)
class ColumnChoice:
    """Which column plays which role.

    `mapping` is role to column. `guessed` are the roles whose column the user did not name and
    that goes by another name than its role's or training's, or that other columns could have played
    too. `passed_over` are those other columns, by role. `unused` are the columns without a role; of
    them `unread` are those of roles, by role, that training had not. `missed` are columns that
    training read for a role and that are not there. `can_name` is whether data.columns names
    columns of these data.
    """

    mapping: Mapping[str, str]
    guessed: tuple[str, ...]
    passed_over: Mapping[str, tuple[str, ...]]
    unused: tuple[str, ...]
    unread: Mapping[str, str]
    missed: Mapping[str, str]
    can_name: bool = True

    def notices(self, source: str) -> tuple[str, ...]:
        """Returns whole sentences on what was guessed in `source`, to be shown to the user."""
        guessed = (self._notice(role) for role in self.guessed)
        unread = (
            f'the column "{column}" is not read: training had no {role}{self._naming(role, ". ")}.'
            for role, column in self.unread.items()
        )
        return tuple(f"{source}: {sentence}" for sentence in (*guessed, *unread))

    def _notice(self, role: str) -> str:
        taken = f'"{self.mapping[role]}" is taken as {role}.'
        missed = self.missed.get(role)
        taken = f'there is no column "{missed}"; {taken}' if missed else f"the column {taken}"
        others = listed(self.passed_over[role])
        return f"{taken} Others: {others}{self._naming(role, '; ')}." if others else taken

    def _naming(self, role: str, before: str) -> str:
        return f"{before}data.columns.{role} names one" if self.can_name else ""


def resolve_columns(
    roles: Sequence[Role],
    column_names: Sequence[str],
    given: Mapping[str, str],
    *,
    training: bool,
    source: str,
    before: Mapping[str, str] = MappingProxyType({}),
    bare_texts: bool = False,
    can_name: bool = True,
) -> ColumnChoice:
    """Chooses a column for each role.

    A column in `given` (role to column) wins. Otherwise the role's own name is looked for, then its
    accepted names in their order; case does not matter. Roles that are `only_training` may be
    missing unless `training`. `source` names the data in messages.

    `before` are the columns of the rows that a model has learned from, which come before all other
    names. A model that has learned from one text would read another beside it, and one that has
    learned from two the one alone, and both would answer all the same: a column for a text that
    training had not is left unread, unless it is given, and one that is missing is an error, but
    for `bare_texts`, which have no columns. Where data.columns names no column of these data, which
    is what `can_name` says, no message tells the user to.

    Raises: DataError when a named or needed column is missing, SettingsError when `given` names
    a role that the task has not.
    """
    given = {role: _named_as(column, column_names) for role, column in given.items()}
    _check_given(roles, column_names, given, source)
    given |= _remembered(roles, column_names, before, given)
    missed = {
        role.name: before[role.name]
        for role in roles
        if role.name in before and role.name not in given and not bare_texts
    }
    mapping: dict[str, str] = {}
    guessed: list[str] = []
    passed_over: dict[str, tuple[str, ...]] = {}
    unread: dict[str, str] = {}
    for role in roles:
        if role.name in given:
            mapping[role.name] = given[role.name]
            continue
        taken = {*mapping.values(), *given.values()}
        candidates = _candidates(role, [name for name in column_names if name not in taken])
        if candidates and before and role.beside and role.name not in before:
            unread[role.name] = candidates[0]
        elif candidates:
            mapping[role.name] = candidates[0]
            if candidates[0] != role.name or len(candidates) > 1 or role.name in missed:
                guessed.append(role.name)
                passed_over[role.name] = tuple(candidates[1:])
        elif role.required and (training or not role.only_training):
            remedy = _how_to_name(role.name, before, can_name)
            raise _missing_role(role, column_names, taken, source, remedy)
    if not bare_texts:
        _check_beside(roles, before, mapping, source, can_name)
    unused = tuple(name for name in column_names if name not in mapping.values())
    return ColumnChoice(mapping, tuple(guessed), passed_over, unused, unread, missed, can_name)


R = TypeVar("R", covariant=True)


class Tabular(Protocol[R]):
    """A table that becomes rows: one in memory, or one whose files stay on the disk."""

    @property
    def name(self) -> str: ...
    @property
    def column_names(self) -> Sequence[str]: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    @property
    def has_bare_texts(self) -> bool: ...
    def rows(self, columns: Mapping[str, str], /) -> R: ...


def as_rows(
    table: Tabular[R],
    roles: Sequence[Role],
    given: Mapping[str, str],
    *,
    training: bool,
    before: Mapping[str, str] = MappingProxyType({}),
    can_name: bool = True,
    say: Callable[[str], None],
) -> R:
    """Returns a table as the rows of these roles, whose columns `resolve_columns` chooses.

    `say` hears how the table was read and which columns were guessed.
    """
    choice = resolve_columns(
        roles,
        table.column_names,
        given,
        training=training,
        source=table.name,
        before=before,
        bare_texts=table.has_bare_texts,
        can_name=can_name,
    )
    for sentence in (*table.notes, *choice.notices(table.name)):
        say(sentence)
    return table.rows(choice.mapping)


def _remembered(
    roles: Sequence[Role],
    column_names: Sequence[str],
    before: Mapping[str, str],
    given: Mapping[str, str],
) -> dict[str, str]:
    """Returns the columns of training that are there, those of another case where they are free.

    Training may have read one column for two roles, and only then does it play both.
    """
    found: dict[str, str] = {}
    wanted = {r.name: before[r.name] for r in roles if r.name in before and r.name not in given}
    for in_any_case in (False, True):
        for role, column in wanted.items():
            taken = {*given.values(), *(found.values() if in_any_case else ())}
            free = [name for name in column_names if name not in taken]
            name = _named_as(column, free) if in_any_case else column
            if role not in found and name in free:
                found[role] = name
    return found


def _named_as(column: str, column_names: Sequence[str]) -> str:
    """Returns the name that a column has in the data, where only its case is another."""
    if column in column_names:
        return column
    alike = [name for name in column_names if name.casefold() == column.casefold()]
    return alike[0] if len(alike) == 1 else column


def _check_beside(
    roles: Sequence[Role],
    before: Mapping[str, str],
    mapping: Mapping[str, str],
    source: str,
    can_name: bool,
) -> None:
    for role in roles:
        if role.beside and role.name in before and role.name not in mapping:
            raise DataError(
                source,
                f'there is no {role.name}, and training read it (from "{before[role.name]}")',
                "A model reads what it has learned from.",
                _how_to_name(role.name, before, can_name),
            )


def _how_to_name(role: str, before: Mapping[str, str], can_name: bool) -> str:
    if can_name:
        return f"Name the column with data.columns.{role}=COLUMN."
    return f'Call it "{before.get(role, role)}".'


def _check_given(
    roles: Sequence[Role], column_names: Sequence[str], given: Mapping[str, str], source: str
) -> None:
    known = [role.name for role in roles]
    for role, column in given.items():
        if role not in known:
            near = nearest(role, known)
            raise SettingsError(
                f"data.columns.{role}",
                f'"{role}" is not a role of this task',
                f"It has {listed(known)}.",
                f'Did you mean "{near}"?' if near else "",
            )
        check_is_column(column, column_names, source)


def check_is_column(name: str, column_names: Sequence[str], source: str) -> None:
    """Raises DataError, with the nearest name, where `source` has no column of this name."""
    if name not in column_names:
        near = nearest(name, column_names)
        raise DataError(
            source,
            f'there is no column "{name}"',
            f"It has {listed(column_names)}.",
            f'Did you mean "{near}"?' if near else "",
        )


def _candidates(role: Role, column_names: Sequence[str]) -> list[str]:
    """Returns the columns that could play a role, best first."""
    found: list[str] = []
    for accepted in (role.name, *role.accepted):
        found += [name for name in column_names if name == accepted]
        found += [name for name in column_names if name.casefold() == accepted.casefold()]
    return list(dict.fromkeys(found))


def _missing_role(
    role: Role, column_names: Sequence[str], taken: set[str], source: str, remedy: str
) -> DataError:
    free = [name for name in column_names if name not in taken]
    matches = (nearest(name, free) for name in (role.name, *role.accepted))
    near = next(filter(None, matches), None)
    remedy = f'Did you mean "{near}"? {remedy}' if near else remedy
    if not near and PurePath(source.lower()).suffix in (".csv", ".tsv"):
        remedy += " If the first line is a row, pass data.header=false."
    return DataError(
        source,
        f'there is no column "{role.name}" ({role.help})',
        f"It has {listed(column_names)}.",
        remedy,
    )
