"""All small mistakes of a module: changed operators, bounds and conditions, and removed lines."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
_CHANGED = (
    ast.Compare, ast.BinOp, ast.BoolOp, ast.UnaryOp, ast.IfExp, ast.If, ast.While, ast.Raise, ast.Return, ast.Continue,
    ast.Break,
)  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """A module with one mistake in it. Its `name` stays the same when lines move."""

    name: str  # function: before -> after
    line: int
    source: Callable[[], str]
    statement: int = 0  # the first line of the statement around it

    @property
    def lines(self) -> tuple[int, int]:
        """The lines that a test must reach to detect it, the nearest first."""
        return self.line, self.statement or self.line


def mutants(source: str) -> Iterator[Mutant]:
    tree = ast.parse(source)
    seen: dict[str, int] = {}
    statements = _statements(tree)
    for index, (function, node) in enumerate(_nodes(tree)):
        for variant in range(_count(node)):
            changed_node = copy.deepcopy(node)
            before = ast.unparse(node)
            _apply(changed_node, variant)
            after = ast.unparse(changed_node)
            if before == after:
                continue
            name = f"{function}: {_short(before)} -> {_short(after)}"
            seen[name] = seen.get(name, 0) + 1
            numbered = name if seen[name] == 1 else f"{name} ({seen[name]})"
            yield Mutant(numbered, node.lineno, partial(_changed, source, index, variant), statements[id(node)])


def _changed(source: str, index: int, variant: int) -> str:
    tree = ast.parse(source)
    _apply(next(node for number, (_, node) in enumerate(_nodes(tree)) if number == index), variant)
    return ast.unparse(ast.fix_missing_locations(tree))


def _statements(tree: ast.Module) -> dict[int, int]:
    """By node, the first line of its statement."""
    lines: dict[int, int] = {}

    def walk(node: ast.AST, line: int) -> None:
        line = node.lineno if isinstance(node, ast.stmt) else line
        lines[id(node)] = line
        for child in ast.iter_child_nodes(node):
            walk(child, line)

    walk(tree, 0)
    return lines


def _short(code: str) -> str:
    line = " ".join(code.split())
    return line if len(line) <= 90 else line[:87] + "..."


def _nodes(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """The nodes that may be changed, in the order of the file, each with its function."""
    yield from _inside(tree, "")


def _inside(node: ast.AST, function: str) -> Iterator[tuple[str, ast.AST]]:
    for child in ast.iter_child_nodes(node):
        if _is_annotation(node, child):  # never evaluated
            continue
        name = function
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{function}.{child.name}".lstrip(".")
        if isinstance(child, ast.Constant):
            changes = not isinstance(node, ast.JoinedStr | ast.Expr)
        elif isinstance(child, ast.Expr):
            changes = isinstance(child.value, ast.Call | ast.Await)
        else:
            changes = isinstance(child, _CHANGED)
        if changes:
            yield name, child
        if not isinstance(child, ast.arg) and not _is_check(child):
            yield from _inside(child, name)


def _is_annotation(node: ast.AST, child: ast.AST) -> bool:
    return child in (getattr(node, "annotation", None), getattr(node, "returns", None))


def _is_check(child: ast.AST) -> bool:
    """`strict=True` of zip and `frozen=True` of a dataclass only assert invariants."""
    return isinstance(child, ast.keyword) and child.arg in ("strict", "frozen")


def _count(node: ast.AST) -> int:
    match node:
        case ast.Compare():
            return len(node.ops)
        case ast.BoolOp():
            return 1 + len(node.values)  # the other operator, or one operand left out
        case ast.Constant():
            return int(isinstance(node.value, bool | int | float) and node.value is not None)
        case ast.BinOp():
            return int(type(node.op) in _OPERATORS and not _is_text(node))
        case ast.UnaryOp():
            return int(isinstance(node.op, ast.Not | ast.USub))
        case ast.Return():
            return int(node.value is not None and not isinstance(node.value, ast.Constant))
    return 1


def _is_text(node: ast.BinOp) -> bool:
    sides = (node.left, node.right)
    return any(isinstance(side, ast.JoinedStr) or isinstance(getattr(side, "value", 0), str) for side in sides)


def _apply(node: ast.AST, variant: int) -> None:
    """Changes a node in place."""
    match node:
        case ast.Compare():
            node.ops[variant] = _COMPARISONS[type(node.ops[variant])]()
        case ast.BoolOp():
            if variant == 0:
                node.op = ast.And() if isinstance(node.op, ast.Or) else ast.Or()
            else:
                del node.values[variant - 1]
                if len(node.values) == 1:
                    node.values.append(copy.deepcopy(node.values[0]))
        case ast.BinOp():
            node.op = _OPERATORS[type(node.op)]()
        case ast.UnaryOp():
            node.op = ast.UAdd() if isinstance(node.op, ast.USub) else node.op
            if isinstance(node.op, ast.Not):
                node.operand = ast.UnaryOp(ast.Not(), node.operand)
        case ast.Constant():
            node.value = _other(node.value)
        case ast.IfExp() | ast.If() | ast.While():
            node.test = ast.UnaryOp(ast.Not(), node.test)
        case ast.Expr() | ast.Raise() | ast.Continue() | ast.Break():
            _become(node, ast.Pass())
        case ast.Return():
            node.value = ast.Constant(None)


def _other(value: object) -> object:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    return value * 1.5 + 0.01 if isinstance(value, float) else value


def _become(node: ast.AST, other: ast.AST) -> None:
    """Turns a statement into another, in place."""
    line, column = node.lineno, node.col_offset  # type: ignore[attr-defined]
    node.__class__ = other.__class__  # type: ignore[assignment]
    node.__dict__.clear()
    node.__dict__.update(lineno=line, col_offset=column, end_lineno=line, end_col_offset=column)
