"""What LLVM has for each of JAX's operations on numbers, for all runs of a vector at once."""

from collections.abc import Callable

import numpy as np

from jaxfact.engine.llvm import Text, scalar
from jaxfact.engine.scalars import Constant, Node, Unscalarisable

_FAST = "contract nsz"  # sums of products are rounded once
_FLOATS = {"add": "fadd", "add_any": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv", "rem": "frem"}
_INTEGERS = {"add": "add", "add_any": "add", "sub": "sub", "mul": "mul", "and": "and", "or": "or", "xor": "xor"}
_COMPARED = {"eq": "oeq", "ne": "une", "lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge"}
_SHIFTS = {"shift_left": "shl", "shift_right_logical": "lshr", "shift_right_arithmetic": "ashr"}
_INTRINSICS = {"sqrt": "sqrt", "floor": "floor", "ceil": "ceil", "max": "maximum", "min": "minimum", "abs": "fabs"}
_LIBRARY = frozenset({"exp", "log", "log1p", "expm1", "sin", "cos", "tanh", "pow"})
# ln(1 + x) on [√½ − 1, √2 − 1] beyond x − x²/2, relative to x³ (Cephes, Moshier 1992).
# fmt: off
_LOGARITHM = (7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
              -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1)
# fmt: on


def applied(text: Text, node: Node, values: list[str]) -> str:
    """Write one operation on vectors; raise Unscalarisable where LLVM has none like it."""
    name, dtype = node.operation.name, node.arguments[0].dtype
    kind, is_float = text.type(dtype), dtype.kind == "f"
    if is_float and name in _FLOATS:
        return text.set(f"{_FLOATS[name]} {_FAST} {kind} {values[0]}, {values[1]}")
    if not is_float and name in _INTEGERS:
        return text.set(f"{_INTEGERS[name]} {kind} {values[0]}, {values[1]}")
    if name in _COMPARED:
        predicate = f"fcmp {_COMPARED[name]}" if is_float else f"icmp {_integer_predicate(name, dtype)}"
        return text.set(f"{predicate} {kind} {values[0]}, {values[1]}")
    if name == "select_n" and dtype.kind == "b" and len(values) == 3:
        of = text.type(node.dtype)
        return text.set(f"select {kind} {values[0]}, {of} {values[2]}, {of} {values[1]}")
    if name in ("convert_element_type", "bitcast_convert_type"):
        return _converted(text, name, dtype, node.dtype, values[0])
    if (
        name in ("div", "rem")
        and node.arguments[1].detail != Constant(0)
        and isinstance(node.arguments[1].detail, Constant)
    ):
        return text.set(f"{'s' if dtype.kind == 'i' else 'u'}{name} {kind} {values[0]}, {values[1]}")
    if name in _SHIFTS and isinstance(node.arguments[1].detail, Constant):
        if not 0 <= node.arguments[1].detail.value < 8 * dtype.itemsize:
            raise Unscalarisable(f"it has the operation {name} by {node.arguments[1].detail.value} bits")
        return text.set(f"{_SHIFTS[name]} {kind} {values[0]}, {values[1]}")
    if name == "not":
        ones = text.constant(True if dtype.kind == "b" else -1, dtype)
        return text.set(f"xor {kind} {values[0]}, {ones}")
    if name == "pow" and node.arguments[1].dtype.kind in "iu":
        return _whole_power(text, node, values)
    if is_float and name in _OF_FLOATS:
        return _OF_FLOATS[name](text, node, values)
    if is_float and name in _INTRINSICS:
        return text.call(
            f"llvm.{_INTRINSICS[name]}.v{text.runs}f{8 * dtype.itemsize}", kind, [(kind, v) for v in values]
        )
    if is_float and name in _LIBRARY:
        return _by_library(text, name, dtype, values)
    if dtype.kind in "iu" and name in ("max", "min"):
        function = f"llvm.{'s' if dtype.kind == 'i' else 'u'}{name}.v{text.runs}i{8 * dtype.itemsize}"
        return text.call(function, kind, [(kind, v) for v in values])
    if dtype.kind in "iu" and name == "neg":
        return text.set(f"sub {kind} zeroinitializer, {values[0]}")
    if name == "sign" and dtype.kind == "i":
        ones = text.constant(-1, dtype)
        signs = text.call(f"llvm.smax.v{text.runs}i{8 * dtype.itemsize}", kind, [(kind, values[0]), (kind, ones)])
        one = text.constant(1, dtype)
        return text.call(f"llvm.smin.v{text.runs}i{8 * dtype.itemsize}", kind, [(kind, signs), (kind, one)])
    raise Unscalarisable(f"it has the operation {name} on {dtype}")


def _integer_predicate(name: str, dtype: np.dtype) -> str:
    if name in ("eq", "ne"):
        return name
    return f"{'s' if dtype.kind == 'i' else 'u'}{name}"


def _converted(text: Text, name: str, old: np.dtype, new: np.dtype, value: str) -> str:
    """Write a conversion as JAX defines it: what is beyond a whole number's range becomes its end."""
    kind, into = text.type(old), text.type(new)
    if kind == into:
        return value
    if name == "bitcast_convert_type" and old.itemsize == new.itemsize:
        return text.set(f"bitcast {kind} {value} to {into}")
    if name == "bitcast_convert_type":
        raise Unscalarisable(f"it has the operation {name} from {old} to {new}")
    if new.kind == "b":
        compared = "fcmp une" if old.kind == "f" else "icmp ne"
        return text.set(f"{compared} {kind} {value}, zeroinitializer")
    if old.kind == "f" and new.kind in "iu":
        suffix = f"v{text.runs}i{8 * new.itemsize}.v{text.runs}f{8 * old.itemsize}"
        return text.call(f"llvm.fpto{'s' if new.kind == 'i' else 'u'}i.sat.{suffix}", into, [(kind, value)])
    if new.kind == "f" and old.kind != "f":
        return text.set(f"{'sitofp' if old.kind == 'i' else 'uitofp'} {kind} {value} to {into}")
    if new.kind == "f":
        return text.set(f"{'fpext' if new.itemsize > old.itemsize else 'fptrunc'} {kind} {value} to {into}")
    longer = "sext" if old.kind == "i" else "zext"
    return text.set(f"{longer if old.kind == 'b' or new.itemsize > old.itemsize else 'trunc'} {kind} {value} to {into}")


def _by_library(text: Text, name: str, dtype: np.dtype, values: list[str]) -> str:
    """Call a function of the C library for one run after the other; written once, as a function of vectors."""
    kind, of, function = scalar(dtype), text.type(dtype), name + ("f" if dtype.itemsize == 4 else "")
    parameters = [f"%x{k}" for k in range(len(values))]
    one = Text(text.runs)
    found = "poison"
    for place in range(text.runs):
        given = [(kind, one.set(f"extractelement {of} {x}, i64 {place}")) for x in parameters]
        found = one.set(f"insertelement {of} {found}, {kind} {one.call(function, kind, given)}, i64 {place}")
    signature = f"{of} @each.{function}({', '.join(f'{of} {x}' for x in parameters)})"
    text.declared |= one.declared
    text.declared.add(
        "\n".join([f"define internal {signature} noinline #0 {{", *one.lines, f"  ret {of} {found}", "}"])
    )
    return text.set(f"call {of} @each.{function}({', '.join(f'{of} {value}' for value in values)})")


def _negated(text, node, values):
    return text.set(f"fneg {text.type(node.dtype)} {values[0]}")


def _inverse_root(text, node, values):
    kind = text.type(node.dtype)
    root = text.call(f"llvm.sqrt.v{text.runs}f{8 * node.dtype.itemsize}", kind, [(kind, values[0])])
    return text.set(f"fdiv {kind} {text.constant(1, node.dtype)}, {root}")


def _squared(text, node, values):
    return text.set(f"fmul {_FAST} {text.type(node.dtype)} {values[0]}, {values[0]}")


def _power(text, node, values):
    """Multiply from the highest bit of the exponent on."""
    kind, exponent = text.type(node.dtype), int(dict(node.params)["y"])
    if exponent == 0:
        return text.constant(1, node.dtype)
    result = values[0]
    for bit in f"{abs(exponent):b}"[1:]:
        result = text.set(f"fmul {_FAST} {kind} {result}, {result}")
        if bit == "1":
            result = text.set(f"fmul {_FAST} {kind} {result}, {values[0]}")
    return result if exponent > 0 else text.set(f"fdiv {kind} {text.constant(1, node.dtype)}, {result}")


def _whole_power(text: Text, node: Node, values: list[str]) -> str:
    """Write x to a power that is data, as a product over the bits of the power; in double, as squares lose digits."""
    base, power = node.arguments
    double, of, flag = text.type(np.float64), text.type(power.dtype), text.type(bool)
    bits = text.set(f"call {of} @llvm.abs.v{text.runs}i{8 * power.dtype.itemsize}({of} {values[1]}, i1 false)")
    text.declared.add(f"declare {of} @llvm.abs.v{text.runs}i{8 * power.dtype.itemsize}({of}, i1)")
    constant = base.detail.value if isinstance(base.detail, Constant) else None
    square = values[0] if base.dtype.itemsize == 8 else ""
    if constant is None and not square:
        square = text.set(f"fpext {text.type(base.dtype)} {values[0]} to {double}")
    product = one = text.constant(1, np.float64)
    for place in range(8 * power.dtype.itemsize - 1):
        if constant is not None:
            with np.errstate(all="ignore"):
                square = text.constant(np.float64(constant) ** (2.0**place), np.float64)
        elif place:
            square = text.set(f"fmul {double} {square}, {square}")
        bit = text.set(f"and {of} {bits}, {text.constant(1 << place, power.dtype)}")
        holds = text.set(f"icmp ne {of} {bit}, zeroinitializer")
        factor = text.set(f"select {flag} {holds}, {double} {square}, {double} {one}")
        product = text.set(f"fmul {double} {product}, {factor}")
    negative = text.set(f"icmp slt {of} {values[1]}, zeroinitializer")
    inverse = text.set(f"fdiv {double} {one}, {product}")
    product = text.set(f"select {flag} {negative}, {double} {inverse}, {double} {product}")
    return product if base.dtype.itemsize == 8 else text.set(f"fptrunc {double} {product} to {text.type(base.dtype)}")


def _is_finite(text, node, values):
    dtype = node.arguments[0].dtype
    kind = text.type(dtype)
    size = text.call(f"llvm.fabs.v{text.runs}f{8 * dtype.itemsize}", kind, [(kind, values[0])])
    return text.set(f"fcmp olt {kind} {size}, {text.constant(np.inf, dtype)}")


def _sign(text, node, values):
    kind, zero, one = text.type(node.dtype), text.constant(0, node.dtype), text.constant(1, node.dtype)
    sized = text.call(f"llvm.copysign.v{text.runs}f{8 * node.dtype.itemsize}", kind, [(kind, one), (kind, values[0])])
    moves = text.set(f"fcmp one {kind} {values[0]}, {zero}")
    return text.set(f"select {text.type(bool)} {moves}, {kind} {sized}, {kind} {values[0]}")


def _clamped(text, node, values):
    kind, of = text.type(node.dtype), f"v{text.runs}f{8 * node.dtype.itemsize}"
    low, value, high = values
    raised = text.call(f"llvm.maximum.{of}", kind, [(kind, value), (kind, low)])
    return text.call(f"llvm.minimum.{of}", kind, [(kind, raised), (kind, high)])


def _logistic(text, node, values):
    kind, one = text.type(node.dtype), text.constant(1, node.dtype)
    negative = text.set(f"fneg {kind} {values[0]}")
    power = _by_library(text, "exp", node.dtype, [negative])
    return text.set(f"fdiv {kind} {one}, {text.set(f'fadd {kind} {one}, {power}')}")


def _logarithm(text, node, values):
    """Write ln x; in single precision for all runs at once, because the library takes one after the other."""
    kind, whole = text.type(node.dtype), text.type(np.int32)
    if node.dtype.itemsize == 8:
        return _by_library(text, "log", node.dtype, values)

    def number(x):
        return text.constant(x, np.float32)

    def integer(x):
        return text.constant(x, np.int32)

    def apply(operation, a, b, of=kind):
        return text.set(f"{operation} {of} {a}, {b}")

    bits = text.set(f"bitcast {kind} {values[0]} to {whole}")
    exponent = apply("sub", apply("lshr", bits, integer(23), whole), integer(126), whole)
    fraction = apply("or", apply("and", bits, integer(0x7FFFFF), whole), integer(0x3F000000), whole)
    m = text.set(f"bitcast {whole} {fraction} to {kind}")
    small = text.set(f"fcmp olt {kind} {m}, {number(np.float32(np.sqrt(0.5)))}")
    less = text.set(f"sext {text.type(bool)} {small} to {whole}")
    e = text.set(f"sitofp {whole} {apply('add', exponent, less, whole)} to {kind}")
    doubled = text.set(f"select {text.type(bool)} {small}, {kind} {apply('fadd', m, m)}, {kind} {m}")
    x = apply("fsub", doubled, number(1))
    square, series = apply("fmul", x, x), number(np.float32(_LOGARITHM[0]))
    for coefficient in _LOGARITHM[1:]:
        series = apply("fadd contract", apply("fmul contract", series, x), number(np.float32(coefficient)))
    tail = apply("fmul", apply("fmul", series, x), square)
    tail = apply("fadd contract", tail, apply("fmul contract", e, number(np.float32(-2.12194440e-4))))
    tail = apply("fadd contract", tail, apply("fmul contract", square, number(-0.5)))
    found = apply("fadd", apply("fadd", x, tail), apply("fmul contract", e, number(0.693359375)))
    # Below the least normal number, which counts as zero; of a negative one, infinity and NaN.
    flag = text.type(bool)
    is_zero = text.set(f"fcmp olt {kind} {values[0]}, {number(np.finfo(np.float32).tiny)}")
    found = text.set(f"select {flag} {is_zero}, {kind} {number(-np.inf)}, {kind} {found}")
    negative = text.set(f"fcmp olt {kind} {values[0]}, {number(-np.finfo(np.float32).tiny)}")
    found = text.set(f"select {flag} {negative}, {kind} {number(np.nan)}, {kind} {found}")
    usual = text.set(f"fcmp olt {kind} {values[0]}, {number(np.inf)}")
    return text.set(f"select {flag} {usual}, {kind} {found}, {kind} {values[0]}")


_OF_FLOATS: dict[str, Callable[[Text, Node, list[str]], str]] = {
    "neg": _negated,
    "rsqrt": _inverse_root,
    "square": _squared,
    "integer_pow": _power,
    "is_finite": _is_finite,
    "sign": _sign,
    "clamp": _clamped,
    "logistic": _logistic,
    "log": _logarithm,
}
