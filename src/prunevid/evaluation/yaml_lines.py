# SPDX-License-Identifier: Apache-2.0
"""Reading YAML so that a complaint about an entry can name its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from prunevid.errors import InputError, one_line

Place = tuple[Any, ...]
"""Where an entry stands: ("grid", "tau", 0)."""


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[Place, int]]:
    """What a YAML file holds, and the line of each entry by its place; only plain values are made of it.

    Raises:
        InputError: the file can't be read, is no YAML or no mapping of names, or a name stands twice (which line).
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} can't be read ({getattr(error, 'strerror', None) or error}).") from error
    reader = _Reader(path, yaml.SafeLoader(text))
    try:
        node = reader.loader.get_single_node()
        content = None if node is None else reader.value(node, (), ())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}," if mark is not None else ""
        problem = one_line(getattr(error, "problem", None) or error)
        raise InputError(f"{path}{where} is no YAML: {problem}.") from error
    finally:
        reader.loader.dispose()
    if not isinstance(content, dict):
        raise InputError(f"{path} holds {type(content).__name__}, but must hold a mapping of names to values.")
    return content, reader.lines


_PLAIN = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


class _Reader:
    def __init__(self, path: Path, loader: Any) -> None:
        self.path, self.loader = path, loader
        self.lines: dict[Place, int] = {}

    def value(self, node: Any, place: Place, above: tuple[int, ...]) -> Any:
        """The value of a node, and the lines of all that is in it; `above`: the nodes that it stands in."""
        self.lines[place] = node.start_mark.line + 1
        if id(node) in above:
            raise self.complaint(node, "an alias names what it stands in.")
        above = (*above, id(node))
        if not isinstance(node, yaml.ScalarNode) and node.tag not in _PLAIN:
            raise self.complaint(node, f"the tag {node.tag} has no place here.")
        if isinstance(node, yaml.SequenceNode):
            return [self.value(entry, (*place, index), above) for index, entry in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            return self.loader.construct_object(node, deep=True)
        self.check_names(node)
        self.loader.flatten_mapping(node)  # what `<<` brings in comes first and gives way to what is written out
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.loader.construct_object(key_node, deep=True)
            inside = (*place, key)
            found[key] = self.value(value_node, inside, above)
            self.lines[inside] = key_node.start_mark.line + 1
        return found

    def check_names(self, node: Any) -> None:
        """Refuses names of a mapping that are no text, or stand twice, of which YAML would drop one silently."""
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.loader.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise self.complaint(key_node, f"the name {key!r} is no text.")
            if key in seen:
                raise self.complaint(key_node, f"{key!r} stands twice; leave one.")
            seen.add(key)

    def complaint(self, node: Any, text: str) -> InputError:
        return InputError(f"{self.path}, line {node.start_mark.line + 1}: {text}")
