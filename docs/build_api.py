"""Builds a page per module, with its public classes and functions, from the docstrings.

    make docs

Writes docs/api/index.html. Any warning is an error.
"""

import inspect
import pkgutil
import re
import typing
import warnings
from collections.abc import Iterator
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path
from textwrap import dedent
from types import FunctionType, ModuleType

import gbp_envs
import pdoc

import gbp_agent

HERE = Path(__file__).parent
COLUMNS = re.compile(r"^ *\S.*? {2,}\S", re.MULTILINE)
CODE = re.compile(r"^\w+ = \w", re.MULTILINE)
FIELD = re.compile(r"^(\*{0,2}[a-z]\w*(?:, \w+)*): (?=\S)", re.MULTILINE)


def module_names(package: ModuleType) -> list[str]:
    """The package and all modules below it, but for private ones."""
    found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    return [package.__name__, *(m.name for m in found if "._" not in m.name)]


def documented(module: ModuleType) -> Iterator[typing.Any]:
    """The module, its classes and functions, and the functions of its classes."""
    yield module
    for thing in list(vars(module).values()):
        if getattr(thing, "__module__", None) != module.__name__:
            continue
        if isinstance(thing, type):
            yield thing
            yield from (f for f in vars(thing).values() if isinstance(f, FunctionType))
        elif isinstance(thing, FunctionType):
            yield thing


def as_markdown(docstring: str) -> str:
    """A docstring that is laid out by hand, for Markdown: columns and code are kept as they are,
    and fields, one to a line, become a list."""
    paragraphs = []
    for text in inspect.cleandoc(docstring).split("\n\n"):
        kept = COLUMNS.search(text) or CODE.search(text)
        fenced = f"```\n{dedent(text)}\n```"
        paragraphs.append(fenced if kept else FIELD.sub(r"- **\1**: ", text))
    return "\n\n".join(paragraphs)


def resolve_constructor(cls: type) -> None:
    """Put types in place of the names in a generated constructor.

    pdoc looks the names up where the class is, while an inherited field's are those of the base
    class's module, and a named tuple's constructor knows no module at all.
    """
    if is_dataclass(cls) and "__init__" in vars(cls):
        cls.__init__.__annotations__ = {**typing.get_type_hints(cls), "return": None}
    elif hasattr(cls, "_fields"):
        cls.__new__.__annotations__ = typing.get_type_hints(cls)


def main() -> None:
    names = [name for package in (gbp_agent, gbp_envs) for name in module_names(package)]
    for name in names:
        for thing in documented(import_module(name)):
            thing.__doc__ = as_markdown(thing.__doc__) if thing.__doc__ else None
            if isinstance(thing, type):
                resolve_constructor(thing)
    pdoc.render.configure(docformat="google", template_directory=HERE / "api_style")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # A package without `__all__` brings its modules along.
        warnings.filterwarnings("ignore", message=".* has already been added")
        pdoc.pdoc(*names, output_directory=HERE / "api")


if __name__ == "__main__":
    main()
