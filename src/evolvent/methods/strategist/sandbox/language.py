"""L1, the skill language: what of Python a value heuristic may use, and the fuel it burns.

A skill is never run as free Python. Its syntax tree is walked; anything outside the list below is refused with line and
reason. Then a unit of fuel is burnt at the start of every loop pass, comprehension pass and function call, so that no
loop of the skill can run on.
"""

from __future__ import annotations

import ast
import hashlib
from dataclasses import dataclass

from evolvent.errors import EvolventError

ENTRY = "evaluate_state"
BURN = "_burn"  # names of a skill never begin with an underscore, so this one cannot be reached
MAX_SOURCE = 40_000  # characters
MAX_NUMBER = 10**18
MAX_ALIGNED = 3_000  # syntax nodes of two skills that are aligned one by one
BUILTINS = frozenset(
    [
        "len",
        "sum",
        "min",
        "max",
        "abs",
        "sorted",
        "range",
        "enumerate",
        "zip",
        "any",
        "all",
        "set",
        "list",
        "dict",
        "tuple",
        "int",
        "float",
        "bool",
        "round",
        "reversed",
        "map",
        "filter",
        "frozenset",
        "isinstance",
        "mean",
        "pow_",
    ]
)
CONSTANTS = frozenset(("True", "False", "None"))
METHODS = frozenset(
    [
        "get",
        "count",
        "index",
        "append",
        "add",
        "items",
        "values",
        "keys",
        "copy",
        "union",
        "intersection",
        "difference",
        "remove",
        "discard",
        "pop",
        "sort",
        "extend",
        "update",
    ]
)
_NODES: tuple[type[ast.AST], ...] = (
    ast.Module, ast.FunctionDef, ast.arguments, ast.arg, ast.Return, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.For,
    ast.While, ast.If, ast.Expr, ast.Pass, ast.Break, ast.Continue, ast.Delete, ast.Assert, ast.BoolOp, ast.BinOp,
    ast.UnaryOp, ast.Lambda, ast.IfExp, ast.Dict, ast.Set, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp,
    ast.comprehension, ast.Compare, ast.Call, ast.keyword, ast.FormattedValue, ast.JoinedStr, ast.Constant,
    ast.Attribute, ast.Subscript, ast.Starred, ast.Name, ast.List, ast.Tuple, ast.Slice, ast.NamedExpr,
    ast.expr_context, ast.boolop, ast.unaryop, ast.cmpop, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod,
    ast.BitAnd, ast.BitOr, ast.BitXor, ast.RShift,
)  # fmt: skip
_NAMED = {
    ast.Import: "import", ast.ImportFrom: "import", ast.Pow: "** (use pow_)", ast.LShift: "<<", ast.Try: "try",
    ast.ClassDef: "class", ast.Global: "global", ast.Nonlocal: "nonlocal", ast.Yield: "yield", ast.Raise: "raise",
    ast.YieldFrom: "yield", ast.With: "with", ast.Match: "match", ast.Await: "await", ast.AsyncFunctionDef: "async",
}  # fmt: skip


class SkillError(EvolventError):
    """A skill cannot be used: what it does wrong, and on which line."""


@dataclass(frozen=True)
class CheckedSource:
    """A skill that is inside the language.

    Attributes:
        source: as it was written.
        fuelled: the same with fuel, as the worker runs it.
        shape: hash of its tree with names and numbers blanked; equal for skills that differ in nothing else.
        takes_tuple: whether it reads its state by position, as the paper's examples do.
    """

    source: str
    fuelled: str
    shape: str
    takes_tuple: bool


def check_source(source: str) -> CheckedSource:
    """Hold a skill against the language.

    Raises:
        SkillError: with the line and the reason.
    """
    if len(source) > MAX_SOURCE:
        raise SkillError(f"the skill has {len(source)} characters; at most {MAX_SOURCE} are read")
    try:
        tree = ast.parse(source)
        _Walk().check(tree)
        shape = _shape(tree)
        takes_tuple = _takes_tuple(_entry(tree))
        fuelled = ast.unparse(ast.fix_missing_locations(_Fuel().visit(tree)))
        compile(fuelled, "<skill>", "exec")
    except SyntaxError as error:
        raise SkillError(f"line {error.lineno}: not Python: {error.msg}") from error
    except (RecursionError, MemoryError, ValueError) as error:
        raise SkillError(f"the skill cannot be read: {type(error).__name__}: {error}") from error
    return CheckedSource(source, fuelled, shape, takes_tuple)


def edit_share(before: str, after: str) -> float:
    """Share of syntax nodes and names that differ between two skills, 0 to 1.

    Beyond `MAX_ALIGNED` nodes, where an alignment could take hours, their order is left out.
    """
    from difflib import SequenceMatcher

    parts = [[f"{type(n).__name__}{getattr(n, 'id', '')}" for n in ast.walk(ast.parse(s))] for s in (before, after)]
    matcher = SequenceMatcher(None, parts[0], parts[1], autojunk=False)
    aligned = sum(map(len, parts)) <= MAX_ALIGNED
    return 1.0 - float(matcher.ratio() if aligned else matcher.quick_ratio())


class _Walk:
    def check(self, tree: ast.Module) -> None:
        _entry(tree)
        _drop_annotations(tree)
        for statement in tree.body:
            self._top(statement)
        own = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        own |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}
        own |= {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
        for node in ast.walk(tree):
            self._node(node, own)

    def _top(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.FunctionDef) or _is_text(statement):
            return
        value = getattr(statement, "value", None)
        if isinstance(statement, ast.Assign | ast.AnnAssign) and value is not None and _is_fixed(value):
            return
        _refuse(statement, "outside functions only numbers, texts and tuples may be named (nothing that could change)")

    def _node(self, node: ast.AST, own: set[str]) -> None:
        if not isinstance(node, _NODES):
            _refuse(node, f"{_NAMED.get(type(node), type(node).__name__)} is not part of the language")
        if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Pow | ast.LShift | ast.MatMult):
            _refuse(node, f"{_NAMED.get(type(node.op), '@')} is not part of the language")
        if isinstance(node, ast.FunctionDef):
            if node.decorator_list:
                _refuse(node, "decorators are not part of the language")
            _check_name(node, node.name)
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            defaults = [*node.args.defaults, *(d for d in node.args.kw_defaults if d is not None)]
            if not all(_is_fixed(d) for d in defaults):
                _refuse(node, "a default that could change is kept between states: write a number or a tuple")
        if isinstance(node, ast.arg):
            _check_name(node, node.arg)
        if isinstance(node, ast.Name):
            _check_name(node, node.id)
            if node.id not in own | BUILTINS:
                _refuse(node, f"{node.id} is neither defined here nor one of {', '.join(sorted(BUILTINS))}")
        if isinstance(node, ast.keyword) and node.arg is not None:
            _check_name(node.value, node.arg)
        if isinstance(node, ast.Attribute):
            if not isinstance(node.ctx, ast.Load):
                _refuse(node, "attributes cannot be set")
            if node.attr not in METHODS:
                _refuse(node, f".{node.attr} is not one of the data methods {', '.join(sorted(METHODS))}")
        if isinstance(node, ast.Call) and not isinstance(node.func, ast.Name | ast.Attribute):
            _refuse(node, "only a named function or a data method can be called")
        if isinstance(node, ast.Constant):
            self._constant(node)

    def _constant(self, node: ast.Constant) -> None:
        value = node.value
        if not isinstance(value, bool | int | float | str | None):
            _refuse(node, f"{type(value).__name__} constants are not part of the language")
        if isinstance(value, int) and abs(value) > MAX_NUMBER:
            _refuse(node, "a number this large is not needed")


class _Fuel(ast.NodeTransformer):
    """Burns a unit in each function body, loop body, lambda and comprehension pass."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        node.body.insert(0, ast.Expr(_burn()))
        return node

    def visit_For(self, node: ast.For) -> ast.AST:
        self.generic_visit(node)
        node.body.insert(0, ast.Expr(_burn()))
        return node

    def visit_While(self, node: ast.While) -> ast.AST:
        self.generic_visit(node)
        node.body.insert(0, ast.Expr(_burn()))
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        self.generic_visit(node)
        return ast.Assign([node.target], node.value) if node.value is not None else ast.Pass()

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        self.generic_visit(node)
        node.body = _after_burning(node.body)
        return node

    def visit_comprehension(self, node: ast.comprehension) -> ast.AST:
        self.generic_visit(node)
        node.ifs.insert(0, ast.Compare(_burn(), [ast.Is()], [ast.Constant(None)]))
        return node


def _burn() -> ast.Call:
    return ast.Call(ast.Name(BURN, ast.Load()), [], [])


def _after_burning(value: ast.expr) -> ast.expr:
    """`burn() or value`: burning gives None."""
    return ast.BoolOp(ast.Or(), [_burn(), value])


def _drop_annotations(tree: ast.Module) -> None:
    """Types of arguments, results and variables; they do nothing, and may name what is not there."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)


def _entry(tree: ast.Module) -> ast.FunctionDef:
    found = [s for s in tree.body if isinstance(s, ast.FunctionDef) and s.name == ENTRY]
    if len(found) != 1:
        raise SkillError(f"the skill must define {ENTRY}(state) exactly once, it does {len(found)} times")
    arguments = found[0].args
    if len(arguments.args) != 1 or arguments.vararg or arguments.kwonlyargs or arguments.posonlyargs:
        _refuse(found[0], f"{ENTRY} takes exactly one argument, the state")
    return found[0]


def _takes_tuple(entry: ast.FunctionDef) -> bool:
    """Whether the state is unpacked, or indexed by whole numbers."""
    state = entry.args.args[0].arg
    for node in ast.walk(entry):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name) and node.value.id == state:
            return isinstance(node.targets[0], ast.Tuple)
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == state:
            return isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, int)
    return False


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _is_fixed(node: ast.expr) -> bool:
    if isinstance(node, ast.Tuple):
        return all(_is_fixed(part) for part in node.elts)
    if isinstance(node, ast.UnaryOp):
        return _is_fixed(node.operand)
    return isinstance(node, ast.Constant)


def _check_name(node: ast.AST, name: str) -> None:
    if name.startswith("_") and name != "_":
        _refuse(node, f"{name}: names must not begin with an underscore")


def _refuse(node: ast.AST, reason: str) -> None:
    raise SkillError(f"line {getattr(node, 'lineno', '?')}: {reason}")


def _shape(tree: ast.Module) -> str:
    """Hash of the tree without names, constants and docstrings."""
    kinds = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        kinds.append(type(node).__name__ + getattr(node, "attr", ""))
    return hashlib.sha256(" ".join(kinds).encode()).hexdigest()[:16]
