"""YAML as people write it: no aliases, no tags, no key twice, and 1e-4 is a number."""

import re
from collections.abc import Iterator
from typing import Any

import yaml

from cdal.errors import InputError, short

Lines = dict[tuple[str, ...], int]
"""The line of every key, counted from 1, by the keys on the way to it."""

_MOST_LEVELS = 20


def read_yaml(text: str, source: str) -> Any:
    """Plain YAML: no aliases, no tags, no key twice; 1e-4 is a number.

    Raises:
        InputError: the text is not such YAML; the sentence names the source and the line.
    """
    return read_yaml_with_lines(text, source)[0]


def read_yaml_with_lines(text: str, source: str) -> tuple[Any, Lines]:
    """The same, and the line of every key.

    Raises:
        InputError: as for `read_yaml`.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return (loader.construct_document(node), dict(_lines(node))) if node else (None, {})
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}" if mark else ""
        problem = (error.problem or error.context or "not valid YAML").removeprefix("but ")
        raise InputError(f"{source}{place}: {problem}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise InputError(f"{source}, line {line}: the character {text[error.position]!r} has no place in YAML") from error


def _lines(node: yaml.Node, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*above, key.value), key.start_mark.line + 1
            yield from _lines(value, (*above, key.value))


class _Loader(yaml.SafeLoader):
    """SafeLoader without what makes a small file unfold to gigabytes or overwrites silently; all its errors tell the line."""

    _level = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise _error("aliases (*name) are not supported", event)
        if getattr(event, "tag", None) is not None:
            raise _error(f"tags ({short(event.tag)}) are not supported", event)
        if self._level == _MOST_LEVELS:
            raise _error(f"lists and mappings lie in one another, more than {_MOST_LEVELS} levels deep", event)
        self._level += 1
        node = super().compose_node(parent, index)
        self._level -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _error("a list or a mapping cannot be a key", key)
            if key.tag == "tag:yaml.org,2002:merge":
                raise _error("merge keys (<<) are not supported", key)
            if key.tag != "tag:yaml.org,2002:str":
                raise _error(f"the key {short(key.value)} is no text; put it in quotes if it is meant", key)
            if key.value in seen:
                raise _error(f"the key {short(key.value)} appears twice", key)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except (ValueError, OverflowError):  # such as the date 2001-99-99
            raise _error(f"{short(node.value)} is not a valid date or number; put it in quotes if it is text", node) from None
        if isinstance(value, int) and value.bit_length() >= 64:
            raise _error(f"the number {short(node.value)} is too large", node)
        return value


def _error(problem: str, where: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(None, None, problem, where.start_mark)


# YAML 1.1 reads 1e-4 as text; everybody means the number.
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789."))
