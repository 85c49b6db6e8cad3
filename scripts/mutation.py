"""Small changes of a Python source that a test should notice, and a sample of them that stays the same as code grows.

Changes: comparisons turned or moved by one, constants, `and` and `or`, a dropped `not`, part of a condition dropped,
arithmetic, swapped arguments, `min` and `max`, `any` and `all`, a removed statement, a removed guard, a return without
its value. Left alone: docstrings, annotations, decorators, texts of errors, `assert_never`.
"""

from __future__ import annotations

import ast
import copy
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
}
TWINS = {"min": "max", "max": "min", "any": "all", "all": "any", "ceil": "floor", "floor": "ceil", "sorted": "list"}
SYMMETRIC = {"min", "max", "minimum", "maximum", "logaddexp", "hypot", "gcd", "isclose", "compare_digest"}
"""Functions whose arguments may be swapped."""
TEXTS = ("hint", "reason")
"""Keyword arguments that hold words for people."""

Change = tuple[str, ast.AST]


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of a source.

    Args:
        path: file, relative to the root.
        function: qualified name of the function or class it lies in; "" at module level.
        operator: kind of change.
        before, after: first line of the statement, without comments, before and after.
        line, last: lines of the statement in the file.
        inside: within the body of a function, so it runs only when that function is called.
        tree: of the file.
        old, new: the statement before and after.
    """

    path: str
    function: str
    operator: str
    before: str
    after: str
    line: int
    last: int
    inside: bool
    tree: ast.Module = field(repr=False, compare=False)
    old: ast.stmt = field(repr=False, compare=False)
    new: ast.stmt = field(repr=False, compare=False)

    @property
    def key(self) -> str:
        """Names the change, not the file or line: stays the same when code moves."""
        text = "\0".join((self.function, self.operator, self.before, self.after))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def entry(self) -> tuple[str, str, str]:
        """How a list of accepted survivors names it."""
        return self.function, self.before, self.after

    def rank(self, seed: int) -> str:
        """Place in the drawing with this seed."""
        return hashlib.sha256(f"{seed}\0{self.key}".encode()).hexdigest()

    def source(self) -> str:
        """The whole changed file."""
        return ast.unparse(ast.fix_missing_locations(_Swap(self.old, self.new).visit(self.tree))) + "\n"


def mutants(path: str, source: str) -> list[Mutant]:
    """Every change of one file that alters its syntax tree, one per key."""
    tree = ast.parse(source)
    found: dict[str, Mutant] = {}
    for statement, function, inside in _statements(tree, "", False):
        before, last = _head(statement), _head_end(statement)
        for operator, changed in _changes(statement):
            after = _head(changed)
            if after != before:
                mutant = Mutant(
                    path, function, operator, before, after, statement.lineno, last, inside, tree, statement, changed
                )
                found.setdefault(mutant.key, mutant)
    return list(found.values())


def code_digest(source: bytes) -> str:
    """Digest of a module without imports and docstrings: what it does, not how it is told."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            node.body = [child for child in node.body if not _is_silent(child)]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:16]


def _is_silent(node: ast.stmt) -> bool:
    words = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return words or isinstance(node, ast.Import | ast.ImportFrom)


def _statements(node: ast.AST, function: str, inside: bool) -> Iterator[tuple[ast.stmt, str, bool]]:
    """Statements with the name of what they lie in; neither docstrings nor imports."""
    for child in _bodies(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            name = f"{function}.{child.name}" if function else child.name
            if isinstance(child, ast.FunctionDef):
                yield child, name, inside
            yield from _statements(child, name, inside or isinstance(child, ast.FunctionDef))
        elif not _left_alone(child):
            yield child, function, inside
            yield from _statements(child, function, inside)


def _bodies(node: ast.AST) -> Iterator[ast.stmt]:
    for name in ("body", "orelse", "finalbody"):
        yield from getattr(node, name, [])
    for handler in getattr(node, "handlers", []):
        yield from handler.body


def _left_alone(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Import | ast.ImportFrom | ast.Pass | ast.Match):
        return True
    if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
        return True
    if isinstance(statement, ast.AnnAssign | ast.Assign) and "TypeAlias" in ast.unparse(statement):
        return True
    if isinstance(statement, ast.Expr):
        call = statement.value
        return isinstance(call, ast.Constant) or "assert_never" in ast.unparse(statement)
    return False


def _head_nodes(statement: ast.stmt) -> list[ast.AST]:
    """The expressions of a statement itself, without statements inside it, decorators and annotations."""
    match statement:
        case ast.FunctionDef():
            return [node for node in (*statement.args.defaults, *statement.args.kw_defaults) if node is not None]
        case ast.If() | ast.While():
            return [statement.test]
        case ast.For():
            return [statement.iter]
        case ast.With():
            return [item.context_expr for item in statement.items]
        case ast.Try():
            return []
        case ast.AnnAssign():
            return [statement.value] if statement.value is not None else []
        case ast.Raise():
            return []
        case _:
            return [statement]


def _head(statement: ast.stmt) -> str:
    if isinstance(statement, ast.FunctionDef):
        return f"def {statement.name}({ast.unparse(statement.args)})"
    bare = copy.copy(statement)
    for name in ("body", "orelse", "finalbody"):
        if getattr(bare, name, None):
            setattr(bare, name, [ast.Pass()])
    return ast.unparse(bare).split("\n")[0]


def _head_end(statement: ast.stmt) -> int:
    body = getattr(statement, "body", None)
    if isinstance(body, list) and body:
        return max(statement.lineno, body[0].lineno - 1)
    return statement.end_lineno or statement.lineno


def _changes(statement: ast.stmt) -> Iterator[tuple[str, ast.stmt]]:
    """Changed copies of a statement."""
    for operator, whole in _whole(statement):
        if isinstance(whole, ast.stmt):
            yield operator, whole
    for root in _head_nodes(statement):
        for node in _expressions(root):
            for operator, replacement in _expression_changes(node):
                yield operator, _with(statement, node, replacement)


def _whole(statement: ast.stmt) -> Iterator[Change]:
    if isinstance(statement, ast.If):
        yield from _negated(statement)
        if not statement.orelse:
            yield "remove guard", ast.Pass()
    if isinstance(statement, ast.Break):
        yield "continue for break", ast.Continue()
    if isinstance(statement, ast.Continue):
        yield "break for continue", ast.Break()
    if isinstance(statement, ast.Return) and not _empty(statement.value):
        yield "return None", ast.Return(ast.Constant(None))
    stored = isinstance(statement, ast.Assign) and not isinstance(statement.targets[0], ast.Name | ast.Tuple)
    if stored or isinstance(statement, ast.Expr | ast.Raise | ast.AugAssign):
        yield "remove statement", ast.Pass()


def _empty(value: ast.expr | None) -> bool:
    """None, or a constant that callers cannot tell from it: "", False, 0, ()."""
    if isinstance(value, ast.Constant):
        return not value.value
    return value is None or (isinstance(value, ast.Tuple | ast.List | ast.Dict) and ast.unparse(value) in "()[]{}")


def _negated(node: ast.If | ast.IfExp) -> Iterator[Change]:
    """A single comparison or `not` is turned by its own rule already."""
    if not isinstance(node.test, ast.Compare | ast.UnaryOp):
        changed = copy.copy(node)
        changed.test = ast.UnaryOp(ast.Not(), node.test)
        yield "negate condition", changed


def _expressions(node: ast.AST) -> Iterator[ast.AST]:
    """Expressions below a node, without f-strings, lambdas' annotations and the words of errors."""
    if isinstance(node, ast.JoinedStr):
        return
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.keyword) and child.arg in TEXTS:
                continue
            if isinstance(child, ast.AST) and not isinstance(child, ast.stmt):
                yield from _expressions(child)


def _expression_changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    rules: dict[type[ast.AST], Callable[..., Iterator[Change]]] = {
        ast.Compare: _comparison,
        ast.Constant: _constant,
        ast.BoolOp: _boolean,
        ast.UnaryOp: _unary,
        ast.BinOp: _arithmetic,
        ast.AugAssign: _arithmetic,
        ast.Call: _call,
        ast.IfExp: _negated,
        ast.comprehension: _filter,
    }
    rule = rules.get(type(node))
    if rule is not None:
        yield from rule(node)


def _comparison(node: ast.Compare) -> Iterator[Change]:
    for place, operator in enumerate(node.ops):
        for other in COMPARISONS[type(operator)]:
            ops = [*node.ops[:place], other(), *node.ops[place + 1 :]]
            yield "comparison", ast.Compare(node.left, ops, node.comparators)


def _constant(node: ast.Constant) -> Iterator[Change]:
    value = node.value
    if isinstance(value, bool):
        yield "constant", ast.Constant(not value)
    elif isinstance(value, int):
        yield "constant", ast.Constant(value + 1)
        yield "constant", ast.Constant(value - 1)
    elif isinstance(value, float):
        yield "constant", ast.Constant(value * 2 if value else 1.0)
        if value:
            yield "constant", ast.Constant(value / 2)
    elif isinstance(value, bytes):
        yield "constant", ast.Constant(value + b"?")


def _boolean(node: ast.BoolOp) -> Iterator[Change]:
    other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    yield "and, or", ast.BoolOp(other, node.values)
    for place in range(len(node.values)):
        rest = [*node.values[:place], *node.values[place + 1 :]]
        yield "drop condition", rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)


def _unary(node: ast.UnaryOp) -> Iterator[Change]:
    if isinstance(node.op, ast.Not | ast.USub | ast.Invert):
        yield "drop " + {ast.Not: "not", ast.USub: "minus", ast.Invert: "invert"}[type(node.op)], node.operand


def _arithmetic(node: ast.BinOp | ast.AugAssign) -> Iterator[Change]:
    other = ARITHMETIC.get(type(node.op))
    if other is None:
        return
    if isinstance(node, ast.AugAssign):
        yield "arithmetic", ast.AugAssign(node.target, other(), node.value)
    else:
        yield "arithmetic", ast.BinOp(node.left, other(), node.right)


def _call(node: ast.Call) -> Iterator[Change]:
    if ast.unparse(node.func).split(".")[-1] not in SYMMETRIC:
        yield from _swapped(node)
    match node.func:
        case ast.Name(id=name) if name in TWINS:
            yield "twin function", ast.Call(ast.Name(TWINS[name]), node.args, node.keywords if name != "sorted" else [])
        case ast.Attribute(attr=name, value=value) if name in TWINS and name != "sorted":
            yield "twin function", ast.Call(ast.Attribute(value, TWINS[name]), node.args, node.keywords)


def _swapped(node: ast.Call) -> Iterator[Change]:
    for place in range(len(node.args) - 1):
        one, two = node.args[place : place + 2]
        if not isinstance(one, ast.Starred) and not isinstance(two, ast.Starred):
            yield (
                "swap arguments",
                ast.Call(node.func, [*node.args[:place], two, one, *node.args[place + 2 :]], node.keywords),
            )


def _filter(node: ast.comprehension) -> Iterator[Change]:
    if node.ifs:
        yield "drop filter", ast.comprehension(node.target, node.iter, [], node.is_async)


class _Swap(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else self._copied(node)

    def _copied(self, node: ast.AST) -> ast.AST:
        return super().generic_visit(copy.copy(_shallow(node)))


def _shallow(node: ast.AST) -> ast.AST:
    """A node whose lists are its own, so that a transformer leaves the original alone."""
    fields = {name: list(value) if isinstance(value, list) else value for name, value in ast.iter_fields(node)}
    places = {name: getattr(node, name) for name in node._attributes if hasattr(node, name)}
    return type(node)(**fields, **places)


def _with(statement: ast.stmt, old: ast.AST, new: ast.AST) -> ast.stmt:
    changed = _Swap(old, new).visit(statement)
    if not isinstance(changed, ast.stmt):
        raise TypeError(f"{type(changed).__name__} in place of a statement")
    return changed
