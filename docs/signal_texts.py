"""An extension of griffe that takes the text of a blinker signal from its argument ``doc``."""

import ast
import inspect
from typing import Any

import griffe


class SignalTexts(griffe.Extension):
    """Makes ``name = namespace.signal("name", doc="…")`` an attribute with that docstring."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Set the docstring of a module's attribute that is a signal, once griffe has read it."""
        if not isinstance(attr.value, griffe.ExprCall):
            return
        for argument in attr.value.arguments:
            if isinstance(argument, griffe.ExprKeyword) and argument.name == "doc":
                text = inspect.cleandoc(ast.literal_eval(str(argument.value)))
                attr.docstring = griffe.Docstring(text, parent=attr)
                attr.value = None
