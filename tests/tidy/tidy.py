#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Holds the tree to the rules of docs/development.md. Usage: tidy.py ROOT. Each finding is one line.

Rules live here rather than in reviews. Every rule is a function over the tree and has a case in tidy_test.py that
shows it catching something. tidy_tables.py has what the rules know of this project; python3's library is enough.
"""

import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import tidy_tables as tables

Finding = str
CODE = {".cc", ".h"}
SOURCE = CODE | {".rs", ".py", ".sh", ".js", ".ts", ".css", ".html"}
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.MULTILINE)


class Tree:
    """The files of a checkout: what git tracks or would track, or everything where there is no git."""

    def __init__(self, root: pathlib.Path):
        self.root = root
        self.files = sorted(self._list())
        self._texts: dict[str, str] = {}

    def _list(self) -> Iterator[str]:
        if (self.root / ".git").exists():
            command = ["git", "-c", "safe.directory=*", "-C", str(self.root), "ls-files", "-co", "--exclude-standard", "-z"]
            listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            return (name for name in set(listing.split("\0")) if name and (self.root / name).is_file())
        paths = (path for path in self.root.rglob("*") if path.is_file())
        return (path.relative_to(self.root).as_posix() for path in paths)

    def with_suffix(self, suffixes: set[str], *folders: str) -> list[str]:
        return [name for name in self.files
                if pathlib.PurePosixPath(name).suffix in suffixes
                and (not folders or name.split("/")[0] in folders)]

    def sources(self) -> list[str]:
        """Files that people write as programs, scripts without a suffix among them."""
        return [name for name in self.files
                if pathlib.PurePosixPath(name).suffix in SOURCE or name in tables.SCRIPTS]

    def text(self, name: str) -> str:
        if name not in self._texts:
            self._texts[name] = (self.root / name).read_text(encoding="utf-8", errors="replace")
        return self._texts[name]

    def code(self, name: str) -> str:
        """The text of a C++ file with comments and literals blanked, lines kept."""
        return blank_comments_and_literals(self.text(name))


TOKEN = re.compile(
    r'//[^\n]*|/\*.*?\*/|R"(?P<tag>[^\s()\\]{0,16})\(.*?\)(?P=tag)"|"(?:\\.|[^"\\\n])*"|(?<![0-9A-Za-z_])\'(?:\\.|[^\'\\\n])+\'',
    re.DOTALL)


def blank_comments_and_literals(text: str) -> str:
    def blank(match: re.Match) -> str:
        return re.sub(r"[^\n]", " ", match.group())
    # Include lines carry their path in quotes, and paths are not literals.
    return TOKEN.sub(lambda m: m.group() if is_include(text, m.start()) else blank(m), text)


def is_include(text: str, position: int) -> bool:
    line = text[text.rfind("\n", 0, position) + 1:position]
    return bool(re.match(r"\s*#\s*include\s*$", line))


def line_of(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def area_of(name: str) -> str | None:
    parts = name.split("/")
    return parts[1] if parts[0] == "src" and len(parts) > 2 else None


def test_files(tree: Tree) -> set[str]:
    """*_test.cc, everything below tests/, and headers that only those include."""
    tests = {name for name in tree.with_suffix(CODE) if name.endswith("_test.cc") or name.startswith("tests/")}
    includers: dict[str, set[str]] = {}
    for name in tree.with_suffix(CODE):
        for match in INCLUDE.finditer(tree.code(name)):
            includers.setdefault(f"src/{match.group(2)}", set()).add(name)
    while more := {name for name, by in includers.items() if by <= tests and name.endswith(".h")} - tests:
        tests |= more
    return tests


def read_arrows(tree: Tree) -> dict[str, set[str]]:
    """area > areas on its DEPS line."""
    text = re.sub(r"#[^\n]*", "", tree.text("CMakeLists.txt"))
    arrows = {}
    for match in re.finditer(r"\bhalfmoon_area\(\s*(\w+)([^)]*)\)", text):
        words = match.group(2).split()
        arrows[match.group(1)] = set(words[1:]) if words[:1] == ["DEPS"] else set()
    return arrows


def reach(arrows: dict[str, set[str]], area: str) -> set[str]:
    """Everything below `area`, itself included."""
    seen, todo = set(), [area]
    while todo:
        current = todo.pop()
        if current not in seen:
            seen.add(current)
            todo.extend(arrows.get(current, ()))
    return seen


def check_arrows(tree: Tree) -> Iterator[Finding]:
    arrows = read_arrows(tree)
    for area, heads in arrows.items():
        for head in sorted(heads - arrows.keys()):
            yield f"CMakeLists.txt: area {area} depends on {head}, which is no area"
        if any(area in reach(arrows, head) for head in heads):
            yield f"CMakeLists.txt: area {area} depends on itself through its DEPS"
    for area, banned in tables.NEVER:
        if area in arrows and banned in reach(arrows, area):
            yield f"CMakeLists.txt: {area} must never reach {banned}, and its DEPS do"
    for name in tree.with_suffix(CODE, "src"):
        area = area_of(name)
        if area not in arrows:
            continue
        allowed = reach(arrows, area)
        for match in INCLUDE.finditer(tree.code(name)):
            target = match.group(2).split("/")[0]
            if match.group(1) == '"' and target in arrows and target not in allowed:
                yield (f"{name}:{line_of(tree.text(name), match.start(1))}: {area} includes {match.group(2)}, but has no arrow "
                       f"to {target} (CMakeLists.txt)")


def check_third_party(tree: Tree) -> Iterator[Finding]:
    tests = test_files(tree)
    for name in tree.with_suffix(CODE):
        place = area_of(name) or name.split("/")[0]
        for match in INCLUDE.finditer(tree.code(name)):
            header, where = match.group(2), f"{name}:{line_of(tree.text(name), match.start(1))}"
            row = next((row for row in tables.THIRD_PARTY if header.startswith(row[0])), None)
            if row:
                allowed = place in row[1] or ("test" in row[1] and name in tests)
                if not allowed:
                    yield f"{where}: <{header}> may be included in {', '.join(sorted(row[1]))} only"
            elif match.group(1) == "<" and not is_system_header(header):
                yield f"{where}: <{header}> is of no known dependency (tests/tidy/tidy_tables.py, docs/dependencies.md)"
            elif match.group(1) == '"' and not resolves(tree, name, header):
                yield f'{where}: "{header}" is no file below src/'


def is_system_header(header: str) -> bool:
    if header in tables.SYSTEM_HEADERS or header.startswith(tables.SYSTEM_FOLDERS):
        return True
    return "/" not in header and not header.endswith((".h", ".hpp"))


def resolves(tree: Tree, name: str, header: str) -> bool:
    if name.startswith("src/"):
        return (tree.root / "src" / header).is_file()
    folders = ("src", ".", "tests", str(pathlib.PurePosixPath(name).parent))
    return any((tree.root / folder / header).is_file() for folder in folders)


def check_layout(tree: Tree) -> Iterator[Finding]:
    arrows = read_arrows(tree)
    for name in tree.with_suffix(CODE):
        parts = name.split("/")
        if not re.fullmatch(r"[a-z0-9_]+\.(cc|h)", parts[-1]):
            yield f"{name}: file names are snake_case"
        if parts[0] == "src" and (len(parts) < 3 or parts[1] not in arrows):
            yield f"{name}: no target builds this folder (halfmoon_area in CMakeLists.txt)"
        elif parts[0] == "src" and len(parts) > 4:
            yield f"{name}: at most one folder inside an area"
        elif parts[0] not in tables.CODE_FOLDERS:
            yield f"{name}: C++ lies in {', '.join(tables.CODE_FOLDERS)} only"
        elif parts[0] == "tests" and parts[1] not in tables.TEST_FOLDERS:
            yield f"{name}: no target builds this folder (tests/CMakeLists.txt)"
        elif parts[:2] == ["tests", "fuzz"] and parts[-1].endswith(".cc") and not parts[-1].startswith("fuzz_"):
            yield f"{name}: a fuzz target is called fuzz_<what>.cc"
    included = set()
    for name in tree.with_suffix(CODE):
        folder = pathlib.PurePosixPath(name).parent.as_posix()
        for match in INCLUDE.finditer(tree.code(name)):
            included |= {match.group(2), f"src/{match.group(2)}", f"tests/{match.group(2)}", f"{folder}/{match.group(2)}"}
    for name in tree.with_suffix({".h"}):
        if name not in included and not name.startswith("src/halfmoon/") and not name.startswith("rust/"):
            yield f"{name}: nothing includes this header"


def check_length(tree: Tree) -> Iterator[Finding]:
    for name in tree.sources():
        lines = tree.text(name).count("\n")
        if lines > tables.MAX_LINES:
            yield f"{name}: {lines} lines, at most {tables.MAX_LINES}"


def check_licence(tree: Tree) -> Iterator[Finding]:
    for name in tree.sources():
        if "SPDX-License-Identifier: Apache-2.0" not in "\n".join(tree.text(name).split("\n")[:3]):
            yield f"{name}: no SPDX licence line at the top"


def check_pragma_once(tree: Tree) -> Iterator[Finding]:
    for name in tree.with_suffix({".h"}):
        if not re.search(r"^#pragma once$", tree.code(name), re.MULTILINE) and not name.startswith("rust/"):
            yield f"{name}: no #pragma once"


def check_words(tree: Tree) -> Iterator[Finding]:
    for name in tree.sources():
        if name.startswith("tests/tidy/"):
            continue  # it has to spell what it looks for
        text = tree.text(name)
        for pattern, reason, folders in tables.BANNED_WORDS:
            if folders and name.split("/")[0] not in folders:
                continue
            for match in re.finditer(pattern, text):
                yield f"{name}:{line_of(text, match.start())}: \"{match.group().strip()}\": {reason}"


def check_calls(tree: Tree) -> Iterator[Finding]:
    tests = test_files(tree)
    for name in tree.with_suffix(CODE):
        code = None
        for pattern, reason, areas, exempt in tables.BANNED_CALLS:
            if (areas and area_of(name) not in areas) or name in exempt or (areas and name in tests):
                continue
            code = code or tree.code(name)
            for match in re.finditer(pattern, code):
                if match.re.groups == 0 or match.group(1):
                    yield f"{name}:{line_of(code, match.start())}: \"{match.group().strip()}\": {reason}"


def check_machine_paths(tree: Tree) -> Iterator[Finding]:
    pattern = re.compile(r"(?<![\w./~}-])/(?:" + "|".join(tables.MACHINE_FOLDERS) + r")/")
    for name in tree.files:
        path = tree.root / name
        if path.stat().st_size > 1 << 20 or b"\0" in path.read_bytes()[:4096]:
            continue
        match = pattern.search(tree.text(name))
        if match:
            yield f"{name}:{line_of(tree.text(name), match.start())}: a path of one machine: {match.group()}"


def check_blobs(tree: Tree) -> Iterator[Finding]:
    golden = 0
    for name in tree.files:
        size = (tree.root / name).stat().st_size
        if name.startswith("tests/golden/"):
            golden += size
        elif size > 1 << 20:
            yield f"{name}: {size} bytes; only tests/golden may hold files above 1 MiB"
    if golden > tables.MAX_GOLDEN_BYTES:
        yield f"tests/golden: {golden} bytes in all, at most {tables.MAX_GOLDEN_BYTES}"


def check_dependencies(tree: Tree) -> Iterator[Finding]:
    """Everything used from outside has its line in docs/dependencies.md."""
    wanted = set()
    for name in ("cmake/HalfmoonDependencies.cmake",):
        if name in tree.files:
            wanted |= set(re.findall(r"^\s*find_package\((\S+)", tree.text(name), re.MULTILINE))
    for name in tree.files:
        if name.endswith("Cargo.toml"):
            for section in re.findall(r"^\[(?:dev-|build-)?dependencies\]\n(.*?)(?=^\[|\Z)", tree.text(name), re.S | re.M):
                wanted |= set(re.findall(r"^([\w-]+)\s*=", section, re.MULTILINE))
    page = tree.text("docs/dependencies.md").lower() if "docs/dependencies.md" in tree.files else ""
    for dependency in sorted(wanted - {"Threads", "Python3"}):
        if dependency.lower() not in page:
            yield f"docs/dependencies.md: no line for {dependency}"


def check_format(tree: Tree) -> Iterator[Finding]:
    program = shutil.which("clang-format-19")
    names = tree.with_suffix(CODE)
    if not program or not names or not (tree.root / ".clang-format").exists():
        return
    result = subprocess.run([program, "--dry-run", "-Werror", *names], cwd=tree.root, capture_output=True, text=True)
    for name in sorted(set(re.findall(r"^(\S+?):\d+:\d+: error", result.stderr, re.MULTILINE))):
        yield f"{name}: not formatted; run clang-format-19 -i {name}"


RULES = [check_arrows, check_third_party, check_layout, check_length, check_licence, check_pragma_once, check_words,
         check_calls, check_machine_paths, check_blobs, check_dependencies, check_format]


def main() -> int:
    tree = Tree(pathlib.Path(sys.argv[1]).resolve())
    findings = 0
    for rule in RULES:
        for finding in rule(tree):
            print(f"{rule.__name__.removeprefix('check_')}: {finding}")
            findings += 1
    print(f"{len(tree.files)} files, {len(RULES)} rules, {findings} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
