"""How settings are declared, checked, read from a mapping and written back.

A room's settings are a frozen dataclass derived from `Settings`; each field is made by `setting(...)`,
which keeps sentence, unit and bounds beside the field, so that errors and `--list-settings` say the same.
Nothing here knows torch, YAML or the command line.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

T = TypeVar("T")
SettingsType = TypeVar("SettingsType", bound="Settings")

_AS_NOW = object()


def setting(
    default: T,
    help: str,
    *,
    unit: str = "",
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    formerly: object = _AS_NOW,
) -> T:
    """A dataclass field with its meaning, unit and bounds; None ("not set") passes every bound.

    formerly: what was done before the setting existed, where that is not today's default.
    """
    bounds = {"at_least": at_least, "at_most": at_most, "above": above, "below": below}
    metadata: dict[str, object] = {"help": help, "unit": unit}
    metadata["bounds"] = {k: v for k, v in bounds.items() if v is not None}
    if formerly is not _AS_NOW:
        metadata["formerly"] = formerly
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The base of every settings dataclass: checks types, choices and bounds when made. Raises ValueError."""

    section: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for name, hint in typing.get_type_hints(type(self)).items():
            if typing.get_origin(hint) is ClassVar:
                continue
            path = join(self.section, name)
            value = read_value(hint, getattr(self, name), path)
            object.__setattr__(self, name, value)
            check_bounds(path, value, self.__dataclass_fields__[name].metadata.get("bounds", {}))

    @classmethod
    def completed(cls, mapping: Mapping[str, Any]) -> Mapping[str, Any]:
        """The mapping with the defaults that depend on other values filled in; a class may override it."""
        return mapping


@dataclasses.dataclass(frozen=True)
class SettingRow:
    """One line of the list of settings: its dotted name, type, default, unit and meaning.

    formerly: what was done before the setting existed.
    """

    name: str
    type: str
    default: object
    unit: str
    help: str
    formerly: object


def from_mapping(cls: type[SettingsType], mapping: Mapping[str, Any], where: str = "config") -> SettingsType:
    """Builds `cls` from a nested mapping; what is not given keeps its default.

    Raises ValueError, in one line that begins with `where`: an unknown key (with the nearest known one), a
    value of the wrong type or out of its bounds, settings that contradict each other.
    """
    try:
        return _build(cls, mapping, "")
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def as_recorded(cls: type[Settings], mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that an earlier version wrote, with what was no setting yet as it was done then.

    For records of runs, which hold every setting of their time; what a user writes is taken as it is.
    """
    then = {row.name: row.formerly for row in list_settings(cls) if row.formerly != row.default}
    recorded = _copy(mapping)
    for name, value in then.items():
        *sections, key = name.split(".")
        place: Any = recorded
        for section in sections:
            place = place.get(section) if isinstance(place, Mapping) else None
        if isinstance(place, dict):
            place.setdefault(key, value)
    return recorded


def to_mapping(config: Settings) -> dict[str, Any]:
    """The settings as dicts, lists and plain values, for JSON or YAML; the inverse of from_mapping."""

    def plain(value: object) -> Any:
        if isinstance(value, Settings):
            return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return [plain(item) for item in value] if isinstance(value, tuple) else value

    return typing.cast("dict[str, Any]", plain(config))


def apply_overrides(
    mapping: Mapping[str, Any], overrides: Sequence[str], *, parse: Callable[[str], Any]
) -> dict[str, Any]:
    """A copy of `mapping` with `section.name=text` overrides laid over it; `parse` makes the text a value.

    Later overrides win. Raises ValueError when one has no `=` or names a value as if it were a section.
    """
    result = _copy(mapping)
    for override in overrides:
        name, equals, text = override.partition("=")
        keys = name.strip().split(".")
        if not equals or not all(keys):
            raise ValueError(f"override must look like section.name=value, got {override!r}")
        place = result
        for key in keys[:-1]:
            inner = place.setdefault(key, {})
            if not isinstance(inner, dict):
                raise ValueError(f"override {override!r}: {key} is a value, not a section of settings")
            place = inner
        place[keys[-1]] = parse(text)
    return result


def merge(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings laid over one another: where both have a value, `upper` wins."""
    result = _copy(lower)
    for key, value in upper.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merge(result[key], value) if both else value
    return result


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    named: dict[str, Any] = {}
    for key, value in values.items():
        name = join(prefix, key)
        named |= flat(value, name) if isinstance(value, Mapping) else {name: value}
    return named


def list_settings(
    cls: type[Settings], prefix: str = "", defaults: Settings | None = None
) -> Iterator[SettingRow]:
    """Every setting of `cls` and of the sections in it, in the order of the file.

    A section's defaults are those of the instance that the class above has for it.
    """
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint, path = hints[field.name], join(prefix, field.name)
        default = field.default if defaults is None else getattr(defaults, field.name)
        if isinstance(hint, type) and issubclass(hint, Settings):
            yield from list_settings(hint, path, default if isinstance(default, Settings) else None)
        else:
            help, unit = field.metadata.get("help", ""), field.metadata.get("unit", "")
            formerly = field.metadata.get("formerly", default)
            yield SettingRow(path, describe_type(hint), default, unit, help, formerly)


def describe_type(hint: Any) -> str:
    """A type in words: "number", "one of group, batch", "list of whole numbers", "text or null"."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe_type(argument) for argument in arguments)
    if origin is typing.Literal:
        return "one of " + ", ".join(str(choice) for choice in arguments)
    if origin is tuple:
        count = "" if arguments[-1] is Ellipsis else f"{len(arguments)} "
        return f"list of {count}{describe_type(arguments[0])}s"
    words = {str: "text", int: "whole number", float: "number", bool: "true/false", types.NoneType: "null"}
    return words.get(hint, "section of settings")


def read_value(hint: Any, value: Any, path: str) -> Any:
    """`value` as the type `hint`, or ValueError.

    Lists become tuples. What YAML 1.1 reads otherwise than people mean is mended: 3e-4 (text to it) where a
    number is expected, a bare no (false to it) where "no" is a choice.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        inner = [argument for argument in arguments if argument is not types.NoneType]
        return read_value(inner[0], value, path)
    if origin is typing.Literal:
        value = "no" if value is False and "no" in arguments else value
        if value in arguments:
            return value
        near = difflib.get_close_matches(str(value), [str(choice) for choice in arguments], n=1, cutoff=0.6)
        hint_text = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"{path} must be {describe_type(hint)}, got {value!r}{hint_text}")
    if origin is tuple:
        return _read_tuple(hint, value, path)
    if isinstance(hint, type) and issubclass(hint, Settings) and isinstance(value, Mapping):
        return _build(hint, value, path)
    if hint is float:
        value = _read_number(value)
    if isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool):
        return value
    raise ValueError(f"{path} must be {_with_article(hint)}, got {value!r}")


def check_bounds(path: str, value: Any, bounds: Mapping[str, float]) -> None:
    """Raises ValueError for blank text and for numbers that are not finite or out of bounds."""
    if isinstance(value, str) and not value.strip():
        raise ValueError(f"{path} must not be empty")
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            continue
        if not math.isfinite(number):
            raise ValueError(f"{path} must be finite, got {number}")
        is_inside = (
            number >= bounds.get("at_least", -math.inf)
            and number <= bounds.get("at_most", math.inf)
            and number > bounds.get("above", -math.inf)
            and number < bounds.get("below", math.inf)
        )
        if not is_inside:
            limits = " and ".join(f"{kind.replace('_', ' ')} {limit:g}" for kind, limit in bounds.items())
            raise ValueError(f"{path} must be {limits}, got {number}")


def join(prefix: str, name: str) -> str:
    """The dotted path of `name` inside `prefix`."""
    return f"{prefix}.{name}" if prefix else name


def _build(cls: type[SettingsType], mapping: Mapping[str, Any], path: str) -> SettingsType:
    if not isinstance(mapping, Mapping):
        raise ValueError(f"{path or 'the settings'} must be a section of names and values, got {mapping!r}")
    hints = typing.get_type_hints(cls)
    known = [field.name for field in dataclasses.fields(cls)]
    for key in mapping:
        if key not in known:
            raise ValueError(f"unknown setting {join(path, str(key))}{_nearest(cls, path, str(key), known)}")
    given = cls.completed(mapping)
    return cls(**{key: read_value(hints[key], value, join(path, key)) for key, value in given.items()})


def _nearest(cls: type[Settings], path: str, key: str, known: Sequence[str]) -> str:
    """The end of the sentence: the nearest name in this section, else in the sections below it."""
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if near:
        return f"; the nearest is {join(path, near[0])}"
    deeper = {row.name.rpartition(".")[2]: join(path, row.name) for row in list_settings(cls)}
    near = difflib.get_close_matches(key.rpartition(".")[2], list(deeper), n=1, cutoff=0.6)
    return f"; the nearest is {deeper[near[0]]}" if near else f"; known here: {', '.join(known)}"


def _read_tuple(hint: Any, value: Any, path: str) -> tuple[Any, ...]:
    arguments = typing.get_args(hint)
    is_open = arguments[-1] is Ellipsis
    if not isinstance(value, (list, tuple)) or (not is_open and len(value) != len(arguments)):
        raise ValueError(f"{path} must be {_with_article(hint)}, got {value!r}")
    return tuple(read_value(arguments[0], item, f"{path}[{index}]") for index, item in enumerate(value))


def _with_article(hint: Any) -> str:
    words = describe_type(hint)
    return words if words.startswith(("text", "true")) else f"a {words}"


def _read_number(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _copy(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in mapping.items()}
