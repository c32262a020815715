"""Which changes a handler's module asks about is found by reading its code: without running it, whoever asks in it."""

import sys
from collections.abc import Callable, Iterator
from textwrap import dedent
from types import ModuleType

import pytest

from orchestrator.patches import patches_in


@pytest.fixture
def module_of() -> Iterator[Callable[[str], ModuleType]]:
    """Return a function that makes a module of a text, and forget what it made."""
    made = list[str]()

    def make(source: str) -> ModuleType:
        name = f"patched_module_{len(made)}_{abs(hash(source))}"
        module = ModuleType(name)
        sys.modules[name] = module
        made.append(name)
        exec(compile(dedent(source), name, "exec"), vars(module))
        return module

    yield make
    for name in made:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("async def main(ctx):\n    return 1", set()),
        ('async def main(ctx):\n    if ctx.patched("a"):\n        return ctx.patched("b")', {"a", "b"}),
        ('async def main(ctx):\n    return ctx.patched(change_id="a")', {"a"}),
        (
            'async def helper(ctx):\n    return ctx.patched("a")\nasync def main(ctx):\n    return await helper(ctx)',
            {"a"},
        ),
        (
            'async def main(ctx):\n    async def inner():\n        return ctx.patched("a")\n    return await inner()',
            {"a"},
        ),
        ('async def main(ctx):\n    return (lambda: ctx.patched("a"))()', {"a"}),
        ('async def main(ctx):\n    return ["x" for x in "ab" if ctx.patched("a")]', {"a"}),
        (
            'class Flow:\n    async def part(self, ctx):\n        return ctx.patched("a")\nasync def main(ctx): ...',
            {"a"},
        ),
        (
            "import functools\n"
            "def quiet(fn):\n    @functools.wraps(fn)\n    async def run(ctx):\n        return await fn(ctx)\n"
            "    return run\n"
            '@quiet\nasync def main(ctx):\n    return ctx.patched("a")',
            {"a"},
        ),
        ("async def main(ctx):\n    name = 'n'\n    return ctx.patched(name)", set()),
    ],
)
def test_the_names_in_a_handlers_module_are_found(
    module_of: Callable[[str], ModuleType], source: str, expected: set[str]
) -> None:
    """In the handler and its helpers, in what they define, in methods and below decorators; not those made later."""
    assert expected == set(patches_in(module_of(source).main))


def test_a_function_without_a_module_is_read_by_itself() -> None:
    """As handlers made in a test or a notebook are."""
    space: dict[str, object] = {"__name__": "nowhere"}
    exec('async def main(ctx):\n    return ctx.patched("a")', space)
    main = space["main"]
    assert callable(main)
    assert {"a"} == set(patches_in(main))
