"""The small pieces that a description is put together from."""

from typing import Any

Node = dict[str, Any]


def ref(name: str, section: str = "schemas") -> Node:
    """Point to a component."""
    return {"$ref": f"#/components/{section}/{name}"}


def text(**more: Any) -> Node:
    """Describe a text."""
    return {"type": "string", **more}


def whole(low: int = 0, high: int | None = None) -> Node:
    """Describe a whole number."""
    return {"type": "integer", "minimum": low} | ({} if high is None else {"maximum": high})


def seconds(**more: Any) -> Node:
    """Describe a number of seconds."""
    return {"type": "number", "minimum": 0, **more}


def nullable(schema: Node) -> Node:
    """Describe what may be missing: null then."""
    if isinstance(schema.get("type"), str) and "enum" not in schema:
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def array(items: Node, **more: Any) -> Node:
    """Describe an array."""
    return {"type": "array", "items": items, **more}


def members(properties: Node, optional: tuple[str, ...] = (), **more: Any) -> Node:
    """Describe an object; all of its members are there but the optional ones."""
    required = [name for name in properties if name not in optional]
    return {
        "type": "object",
        "properties": properties,
        **({"required": required} if required else {}),
        **more,
    }


def answer(description: str, content: Node | None = None, *headers: str) -> Node:
    """Describe an answer.

    Args:
        description: When it is given.
        content: Schemas or media type objects by media type; None for no body.
        headers: Names of header components.
    """
    node: Node = {"description": description}
    if headers:
        node["headers"] = {name: ref(name, "headers") for name in headers}
    if content is not None:
        node["content"] = content
    return node


def media(schema: Node, example: Any = None) -> Node:
    """Describe a body of one media type."""
    return {"schema": schema} | ({} if example is None else {"example": example})


def query(name: str, description: str, schema: Node, **more: Any) -> Node:
    """Describe a query parameter; none is ever required."""
    return {"name": name, "in": "query", "description": description, "schema": schema, **more}


def header(name: str, description: str, **more: Any) -> Node:
    """Describe a request's header; none is ever required."""
    return {"name": name, "in": "header", "description": description, "schema": text(), **more}
