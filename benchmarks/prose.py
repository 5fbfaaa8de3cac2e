"""How the package reads: comments, examples, arguments and vague words, by room.

    python -m benchmarks.prose

- comments in 100 lines: lines with a comment of those that hold code or a comment;
- examples: public docstrings with ``>>>`` or an indented block after ``::``;
- arguments: docstrings of functions with more than two arguments that list them;
- vague words in 100: "what", "whoever", "those", "such", "it" and "that" in docstrings and comments.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "altermoma_ray"
VAGUE = {"what", "whoever", "those", "such", "it", "that"}
_EXAMPLE = re.compile(r">>>|::\n\s*\n\s+")
_WORD = re.compile(r"[A-Za-z']+")


@dataclass
class Figures:
    """Counts over some files."""

    lines: int = 0
    """Lines that hold code or a comment."""
    comments: int = 0
    docstrings: int = 0
    """Public ones: of modules, classes and functions whose names begin without an underscore."""
    examples: int = 0
    long_functions: int = 0
    """Public functions with more than two arguments and a docstring."""
    listed: int = 0
    """Those of them whose docstring lists the arguments."""
    words: int = 0
    vague: int = 0
    files: list[str] = field(default_factory=list)

    def add(self, file: Path) -> None:
        """Count a file."""
        text = file.read_text()
        self.files.append(file.name)
        told = list(_comments(text))
        code = {token.start[0] for token in _tokens(text) if token.type not in _BLANK}
        self.lines += len(code | {line for line, _ in told})
        self.comments += len(told)
        prose = [comment for _, comment in told]
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            docstring = ast.get_docstring(node)
            if docstring is None:
                continue
            prose.append(docstring)
            if getattr(node, "name", "public").startswith("_"):
                continue
            self.docstrings += 1
            self.examples += bool(_EXAMPLE.search(docstring))
            if isinstance(node, ast.FunctionDef) and len(_arguments(node)) > 2:
                self.long_functions += 1
                self.listed += "Args:" in docstring or "Arguments" in docstring
        words = [word.lower() for part in prose for word in _WORD.findall(part)]
        self.words += len(words)
        self.vague += sum(word in VAGUE for word in words)

    def row(self) -> list[str]:
        """The four figures as text."""
        return [
            f"{100 * self.comments / max(1, self.lines):.1f}",
            f"{100 * self.examples / max(1, self.docstrings):.1f} %",
            f"{100 * self.listed / max(1, self.long_functions):.0f} %",
            f"{100 * self.vague / max(1, self.words):.2f}",
        ]


_BLANK = {
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.COMMENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def _tokens(text: str) -> Iterator[tokenize.TokenInfo]:
    return tokenize.generate_tokens(io.StringIO(text).readline)


def _comments(text: str) -> Iterator[tuple[int, str]]:
    """Lines with a comment; settings of tools are none."""
    for token in _tokens(text):
        comment = token.string.lstrip("# ")
        if token.type == tokenize.COMMENT and not comment.startswith(("type:", "noqa", "fmt:", "doctest")):
            yield token.start[0], comment


def _arguments(node: ast.FunctionDef) -> list[str]:
    every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return [argument.arg for argument in every if argument.arg not in ("self", "cls")]


def main() -> None:
    """Count and print."""
    rooms: dict[str, Figures] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE).parts
        for room in (parts[0] if len(parts) > 1 else "commands and ground", "all"):
            rooms.setdefault(room, Figures()).add(file)
    print(f"{'room':22}{'comments/100':>14}{'examples':>12}{'arguments':>12}{'vague/100':>12}")
    for room, figures in sorted(rooms.items(), key=lambda item: item[0] == "all"):
        print(f"{room:22}{''.join(f'{cell:>12}' for cell in figures.row()):>50}")


if __name__ == "__main__":
    main()
