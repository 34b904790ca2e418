"""Text as LaTeX sets it: symbols as mathematics, and what has a meaning in LaTeX escaped."""

import re
import unicodedata

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "–": "--",
    "—": "---",
    "’": "'",
    "…": r"\ldots{}",
}
_MATHS = {
    "×": r"\times",
    "·": r"\cdot",
    "≤": r"\le",
    "≥": r"\ge",
    "−": "-",
    "√": r"\surd",
    "‖": r"\|",
    "∞": r"\infty",
    "∇": r"\nabla",
    "⟨": r"\langle",
    "⟩": r"\rangle",
    "±": r"\pm",
    "→": r"\to",
    "≈": r"\approx",
    "∈": r"\in",
    "ᵀ": r"^{\top}",
    "½": r"\tfrac12",
    "¼": r"\tfrac14",
}

# Neither a sum of money, "$5 and $6", nor what LaTeX would stop at; a name may hold anything.
_FORMULA = re.compile(r"(?<!\\)(\$(?=\S)[^$%#&~]*[^$%#&~\s\\]\$(?!\d))")


def latex_text(text: str, *, maths: bool = True) -> str:
    r"""Return a text as LaTeX source: specials escaped, Greek letters, small digits and signs in $…$.

    What already stands between dollar signs stays as it is if that may be a formula, unless there are no `maths`.
    """
    parts = _FORMULA.split(text)
    whole = "".join(part if maths and _is_formula(part) else "".join(map(_letter, part)) for part in parts)
    return re.sub(r"(?<!\\)\$\$", "", whole)  # neighbouring formulas are one


def latex_name(text: str) -> str:
    """Return a name that a column of data may have in LaTeX: letters, digits and underscores."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"\W+", "_", plain).strip("_") or "x"


def _is_formula(part: str) -> bool:
    return bool(_FORMULA.fullmatch(part)) and part.count("{") == part.count("}")


def _letter(letter: str) -> str:
    if letter in _SPECIAL:
        return _SPECIAL[letter]
    if letter.isascii():
        return letter
    if letter in _MATHS:
        return f"${_MATHS[letter]}$"
    small = unicodedata.decomposition(letter)
    if small.startswith(("<sub>", "<super>")):
        inner = unicodedata.normalize("NFKC", letter).replace("−", "-")
        return f"${'_' if small.startswith('<sub>') else '^'}{{{inner}}}$"
    return _greek(letter) or letter


def _greek(letter: str) -> str:
    name = unicodedata.name(letter, "").split()
    if name[:1] != ["GREEK"] or name[2:3] != ["LETTER"] or len(name) != 4:
        return ""
    command = name[3].replace("LAMDA", "LAMBDA")
    return rf"$\{command.capitalize() if name[1] == 'CAPITAL' else command.lower()}$"
