"""A Jinja environment for templates that nobody vouches for.

A chat template comes with a downloaded model, so it may be hostile. Jinja's own sandbox keeps it away from Python's
internals; it does not keep it from running for ever (nested loops, ``10 ** 10 ** 10``) or from filling the memory
(``"a" * 10 ** 9``, a list that holds itself twice, forty times over). Here every rendering has a `Budget`: each loop
step, call, filter, test and attribute costs something, each text or list made costs its length, and no value may grow
past a limit. Operations that could exceed the limit before they return are estimated first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime
from functools import wraps
from types import GeneratorType
from typing import Any, NoReturn, cast

from jinja2 import nodes, pass_context, pass_eval_context
from jinja2.exceptions import SecurityError
from jinja2.exceptions import TemplateError as JinjaError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import FILTERS, do_join
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.visitor import NodeTransformer

from edgelm.runtime.text.budget import (
    CHARS,
    DIGITS,
    FILTER_CHECKS,
    METHOD_CHECKS,
    STEP,
    Budget,
    check_percent,
    check_product,
    small,
)

_FILTERS = """abs batch capitalize center count d default dictsort e escape first float format groupby indent int items
join last length list lower map max min reject rejectattr replace reverse round safe select selectattr slice sort
string sum title trim truncate unique upper""".split()  # noqa: SIM905
_STRING_METHODS = """capitalize casefold center count endswith find format format_map index isalnum isalpha isascii
isdecimal isdigit islower isnumeric isspace istitle isupper join ljust lower lstrip partition removeprefix removesuffix
replace rfind rindex rjust rpartition rsplit rstrip split splitlines startswith strip swapcase title upper
zfill""".split()  # noqa: SIM905
_METHODS: dict[type[Any], frozenset[str]] = {
    str: frozenset(_STRING_METHODS),
    dict: frozenset(("get", "items", "keys", "values", "copy")),
    list: frozenset(("count", "index", "copy")),
    tuple: frozenset(("count", "index")),
}


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of transformers' chat templates, with a budget.

    Set `budget` before each rendering; without one, nothing can be evaluated, not even at compile time.
    """

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, loopcontrols],
            finalize=_charge_output,
            optimized=False,  # the optimiser would evaluate constants while compiling, outside any budget
        )
        self.budget: Budget | None = None
        self.filters = {name: self._guarded(FILTERS[name], FILTER_CHECKS.get(name)) for name in _FILTERS}
        self.filters["join"] = self._guarded(_join, None)
        self.filters["tojson"] = self._guarded(_tojson, None)
        self.tests = {name: self._guarded(cast(Callable[..., Any], test), None) for name, test in self.tests.items()}
        self.globals = {name: self.globals[name] for name in ("range", "dict", "namespace", "joiner", "cycler")}
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}

    def spent(self) -> Budget:
        """The budget of the rendering under way."""
        if self.budget is None:
            raise SecurityError("evaluated outside a rendering")
        return self.budget

    def _guarded(self, function: Callable[..., Any], check: Callable[..., None] | None) -> Callable[..., Any]:
        first = 1 if hasattr(function, "jinja_pass_arg") else 0

        @wraps(function)  # takes the pass_environment mark along
        def run(*args: Any, **kwargs: Any) -> Any:
            budget = self.spent()
            budget.spend(STEP)
            if check:
                check(budget, *args[first:], **kwargs)
            return budget.hold(function(*args, **kwargs))

        return run

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = _Meter().visit(super()._parse(source, name, filename))
        tree.set_environment(self)
        assert isinstance(tree, nodes.Template)
        return tree

    def tick(self, text: int = 0) -> bool:
        """What `_Meter` puts into loops and before plain text of `text` characters."""
        self.spent().spend(text)
        return True

    def hold(self, value: Any) -> Any:
        """What `_Meter` puts around every list, tuple, dict and slice."""
        return value  # measured by `call`, as every result is

    def tilde(self, *values: Any) -> str:
        """What `_Meter` puts in place of ``a ~ b``."""
        texts = [str(value) for value in values if self.spent().hold(value) is value]
        self.spent().allow(sum(map(len, texts)))
        return "".join(texts)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Every call of a template, macros included."""
        budget = __self.spent()
        budget.spend(STEP)
        if isinstance(__obj, Macro):
            budget.hold([args, kwargs])  # a macro may print them as `varargs` and `kwargs`
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str):
            if __obj.__name__ == "join" and args:
                args = (budget.items(args[0]), *args[1:])
            check = METHOD_CHECKS.get(__obj.__name__)
            if check:
                named = {key: value for key, value in kwargs.items() if key not in ("_loop_vars", "_block_vars")}
                check(budget, owner, *args, **named)
        return budget.hold(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """The operators that can make much out of little."""
        budget = self.spent()
        if operator == "%" and isinstance(left, str):
            check_percent(budget, left, right)
        elif operator == "*":
            check_product(budget, left, right)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int) and right > 0:
            small(left.bit_length() * right, DIGITS)
        return budget.hold(super().call_binop(context, operator, left, right))

    def getattr(self, obj: Any, attribute: str) -> Any:
        """``a.b``."""
        self.spent().spend(1)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """``a["b"]``."""
        self.spent().spend(1)
        return super().getitem(obj, argument)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Of built-in values only known methods, of others what Jinja allows."""
        for kind, methods in _METHODS.items():
            if isinstance(obj, kind):
                return attr in methods
        return not isinstance(obj, type | GeneratorType) and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """``str.format`` and ``format_map``, sandboxed and metered."""
        if super().wrap_str_format(value) is None:
            return None
        text, budget = cast(str, value.__self__), self.spent()

        def formatted(*args: Any, **kwargs: Any) -> str:
            named = args[0] if value.__name__ == "format_map" else kwargs
            return type(text)(_Formatter(self, budget).vformat(text, args, named))

        return formatted


class _Formatter(SandboxedFormatter):
    def __init__(self, env: Sandbox, budget: Budget) -> None:
        super().__init__(env)
        self._budget = budget

    def format_field(self, value: Any, format_spec: str) -> Any:
        if re.search(r"\d{5}", format_spec):
            raise SecurityError("it pads a text too far")
        return self._budget.hold(super().format_field(value, format_spec))


class _Meter(NodeTransformer):
    """Puts the calls into a template that charge what Jinja does without asking the environment."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_call("tick"), lineno=node.lineno))
        if node.test is not None:  # an element that fails it never reaches the body
            node.test = nodes.And(_call("tick"), node.test)
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        self.generic_visit(node)
        text = sum(len(child.data) for child in node.nodes if isinstance(child, nodes.TemplateData))
        if not text:
            return node
        tick = nodes.CondExpr(_call("tick", nodes.Const(text)), nodes.Const(""), nodes.Const(""))
        node.nodes.insert(0, tick)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _call("tilde", *node.nodes)

    def _hold(self, node: nodes.Node) -> nodes.Node:
        self.generic_visit(node)
        made = getattr(node, "ctx", "load") == "load"  # a tuple may also be the target of an assignment
        return _call("hold", node) if made else node

    visit_List = visit_Tuple = visit_Dict = _hold

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _call("hold", node) if isinstance(node.arg, nodes.Slice) else node


def _call(method: str, *args: Any) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(method), list(args), [], None, None)


class _Generation(Extension):
    """``{% generation %}`` marks the assistant's words for training; here its body is rendered as it is."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.CallBlock:
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body, lineno=lineno)

    def _body(self, caller: Callable[[], str]) -> str:
        return caller()


@pass_context  # keeps Jinja from calling it while compiling
def _charge_output(context: Context, value: Any) -> Any:
    environment = context.environment
    assert isinstance(environment, Sandbox)
    return environment.spent().hold(value)


def _raise_exception(message: object) -> NoReturn:
    raise JinjaError(str(message))


def _strftime_now(format: str) -> str:
    small(len(format), CHARS)
    return datetime.now().strftime(format)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Unlike Jinja's own filter it does not escape for HTML; as in transformers.
    for option in (indent, *(separators or ())):
        small(len(option) if isinstance(option, str) else option or 0, 16)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@pass_eval_context
def _join(eval_ctx: nodes.EvalContext, value: Any, d: str = "", attribute: str | int | None = None) -> str:
    environment = eval_ctx.environment
    assert isinstance(environment, Sandbox)
    items = environment.spent().items(value)
    environment.spent().allow(len(items) * len(str(d)))
    return str(do_join(eval_ctx, items, d, attribute))
