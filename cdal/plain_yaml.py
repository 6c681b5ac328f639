"""YAML as people write it: no aliases, no tags, no key twice, and 1e-4 is a number."""

from __future__ import annotations

import re
from typing import Any

import yaml

from cdal.errors import InputError


def read_yaml(text: str, source: str) -> Any:
    """Plain YAML: no aliases, no tags, no key twice; 1e-4 is a number.

    Raises:
        InputError: the text is not such YAML; the sentence names the source and the line.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{source}{place}: {error.problem or error.context or 'not valid YAML'}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"{source} is not valid YAML: {' '.join(str(error).split())[:200] or type(error).__name__}") from error


class _Loader(yaml.SafeLoader):
    """SafeLoader without aliases (a small file may unfold to gigabytes) and without silent repetitions."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not supported", self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} appears twice", key.start_mark)
            seen.add(key.value if isinstance(key.value, str) else str(key.value))
        return super().construct_mapping(node, deep)


# YAML 1.1 reads 1e-4 as text; everybody means the number.
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789."))
