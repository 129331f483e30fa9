#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Each rule of tidy.py against a tiny tree that breaks it, and against one that does not."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import headers_compile
import tidy
import tidy_tables as tables

LICENCE = "// SPDX-License-Identifier: Apache-2.0\n"
HEADER = LICENCE + "#pragma once\n"
ARROWS = """
halfmoon_area(base)
halfmoon_area(net DEPS base)  # halfmoon_area(commented DEPS sched)
halfmoon_area(kv DEPS base)
halfmoon_area(store DEPS kv)
halfmoon_area(sched DEPS kv)
halfmoon_area(kernels DEPS base)
halfmoon_area(model DEPS kernels)
"""


class RuleTest(unittest.TestCase):
    def findings(self, rule, files: dict[str, str | bytes]) -> list[str]:
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for name, content in {"CMakeLists.txt": ARROWS, **files}.items():
                path = root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content if isinstance(content, bytes) else content.encode())
            return list(rule(tidy.Tree(root)))

    def caught(self, rule, files, *words: str):
        findings = self.findings(rule, files)
        self.assertEqual(len(findings), 1, findings)
        for word in words:
            self.assertIn(word, findings[0])

    def clean(self, rule, files):
        self.assertEqual(self.findings(rule, files), [])


class Arrows(RuleTest):
    def test_include_without_arrow(self):
        self.caught(tidy.check_arrows, {"src/net/a.cc": '\n#include "kv/b.h"\n'}, "src/net/a.cc:2", "no arrow to kv")

    def test_include_upwards(self):
        self.caught(tidy.check_arrows, {"src/kv/a.h": '#include "sched/b.h"\n'}, "no arrow to sched")

    def test_arrow_reaches_everything_below(self):
        self.clean(tidy.check_arrows, {"src/sched/a.cc": '#include "base/b.h"\n#include "kv/c.h"\n'})

    def test_include_in_comment(self):
        self.clean(tidy.check_arrows, {"src/net/a.cc": '// #include "kv/b.h"\n/*\n#include "kv/b.h"\n*/\n'})

    def test_link_line_on_the_never_list(self):
        self.caught(tidy.check_arrows, {"CMakeLists.txt": "halfmoon_area(model DEPS kv)\nhalfmoon_area(kv)"}, "model must never reach kv")

    def test_never_list_reaches_through_others(self):
        text = "halfmoon_area(model)\nhalfmoon_area(kv DEPS model)\nhalfmoon_area(sched DEPS kv)"
        self.caught(tidy.check_arrows, {"CMakeLists.txt": text}, "sched must never reach model")

    def test_circle(self):
        findings = self.findings(tidy.check_arrows, {"CMakeLists.txt": "halfmoon_area(a DEPS b)\nhalfmoon_area(b DEPS a)"})
        self.assertIn("a depends on itself", findings[0])

    def test_unknown_head(self):
        self.caught(tidy.check_arrows, {"CMakeLists.txt": "halfmoon_area(a DEPS b)"}, "which is no area")


class ThirdParty(RuleTest):
    def test_header_outside_its_area(self):
        for header, home in [("boost/asio.hpp", "net"), ("boost/json.hpp", "base"), ("spdlog/spdlog.h", "base"),
                             ("prometheus/counter.h", "serve"), ("xxhash.h", "base"), ("CLI/CLI.hpp", "apps")]:
            self.caught(tidy.check_third_party, {"src/kv/a.cc": f"#include <{header}>\n"}, "only", home)

    def test_textcore_outside_text(self):
        self.caught(tidy.check_third_party, {"src/kv/a.cc": '#include "textcore.h"\n'}, "text only")

    def test_header_at_home(self):
        self.clean(tidy.check_third_party, {"src/net/a.cc": "#include <boost/asio.hpp>\n",
                                            "src/kv/a_test.cc": "#include <gtest/gtest.h>\n"})

    def test_header_that_only_tests_include(self):
        files = {"src/kv/a_test.cc": '#include "kv/b.h"\n', "src/kv/b.h": '#include "kv/c.h"\n', "src/kv/c.h": "#include <gtest/gtest.h>\n"}
        self.clean(tidy.check_third_party, files)
        self.caught(tidy.check_third_party, {**files, "src/kv/a.cc": '#include "kv/c.h"\n'}, "test only")

    def test_test_library_in_product(self):
        self.caught(tidy.check_third_party, {"src/kv/a.cc": "#include <gtest/gtest.h>\n"}, "test only")

    def test_unknown_dependency(self):
        self.caught(tidy.check_third_party, {"src/kv/a.cc": "#include <fmt/core.h>\n"}, "no known dependency")

    def test_system_headers(self):
        self.clean(tidy.check_third_party, {"src/kv/a.cc": "#include <vector>\n#include <sys/mman.h>\n#include <unistd.h>\n"})

    def test_quoted_header_that_is_not_there(self):
        self.caught(tidy.check_third_party, {"src/kv/a.cc": '#include "kv/gone.h"\n'}, "no file below src")


class Layout(RuleTest):
    def test_folder_without_target(self):
        self.caught(tidy.check_layout, {"src/extra/a.cc": ""}, "no target builds this folder")
        self.caught(tidy.check_layout, {"tests/extra/a_test.cc": ""}, "no target builds this folder")
        self.caught(tidy.check_layout, {"lib/a.cc": ""}, "only")

    def test_two_folders_inside_an_area(self):
        self.caught(tidy.check_layout, {"src/model/arch/more/a.cc": ""}, "at most one folder")
        self.clean(tidy.check_layout, {"src/model/arch/a.cc": ""})

    def test_file_name(self):
        self.caught(tidy.check_layout, {"src/kv/BlockKey.cc": ""}, "snake_case")

    def test_fuzz_target_name(self):
        self.caught(tidy.check_layout, {"tests/fuzz/gguf_fuzz.cc": ""}, "fuzz_<what>.cc")

    def test_dead_header(self):
        self.caught(tidy.check_layout, {"src/kv/a.h": HEADER}, "nothing includes")
        self.clean(tidy.check_layout, {"src/kv/a.h": HEADER, "src/kv/a.cc": '#include "kv/a.h"\n'})

    def test_public_header_is_included_from_outside(self):
        text = ARROWS + "halfmoon_area(halfmoon DEPS model)"
        self.clean(tidy.check_layout, {"CMakeLists.txt": text, "src/halfmoon/moe.h": HEADER})


class Files(RuleTest):
    def test_length(self):
        self.caught(tidy.check_length, {"src/kv/a.cc": "\n" * (tables.MAX_LINES + 1)}, "601 lines")
        self.clean(tidy.check_length, {"src/kv/a.cc": "\n" * tables.MAX_LINES})

    def test_licence(self):
        self.caught(tidy.check_licence, {"src/kv/a.cc": "int a;\n"}, "SPDX")
        self.caught(tidy.check_licence, {"run": "#!/bin/sh\n"}, "run:")
        self.clean(tidy.check_licence, {"src/kv/a.cc": LICENCE, "tools/a.py": "#!/usr/bin/env python3\n" + LICENCE})

    def test_pragma_once(self):
        self.caught(tidy.check_pragma_once, {"src/kv/a.h": LICENCE + "// #pragma once\n"}, "#pragma once")

    def test_large_file(self):
        self.caught(tidy.check_blobs, {"docs/a.bin": b"\0" * ((1 << 20) + 1)}, "1 MiB")
        self.clean(tidy.check_blobs, {"tests/golden/a.bin": b"\0" * ((1 << 20) + 1)})

    def test_golden_size(self):
        limit, tables.MAX_GOLDEN_BYTES = tables.MAX_GOLDEN_BYTES, 10
        try:
            self.caught(tidy.check_blobs, {"tests/golden/a": b"12345", "tests/golden/b": b"123456"}, "11 bytes in all")
        finally:
            tables.MAX_GOLDEN_BYTES = limit

    def test_machine_path(self):
        for folder in tables.MACHINE_FOLDERS:
            self.caught(tidy.check_machine_paths, {"docs/a.md": f"see \n`/{folder}/somebody/x`\n"}, "docs/a.md:2")
        self.clean(tidy.check_machine_paths, {"docs/a.md": "~/work/x, src/work/x, https://example.org/home/x, $HOME/root/"})

    def test_dependency_without_a_line(self):
        self.caught(tidy.check_dependencies, {"cmake/HalfmoonDependencies.cmake": "find_package(OpenSSL REQUIRED)\n",
                                              "docs/dependencies.md": "| Boost |"}, "OpenSSL")
        self.caught(tidy.check_dependencies, {"rust/x/Cargo.toml": '[package]\nname = "x"\n[dependencies]\nserde = "1"\n\n[lib]\nname = "y"\n',
                                              "docs/dependencies.md": ""}, "serde")
        self.clean(tidy.check_dependencies, {"cmake/HalfmoonDependencies.cmake": "find_package(OpenSSL REQUIRED)\n",
                                             "docs/dependencies.md": "| OpenSSL |"})

    @unittest.skipUnless(tidy.shutil.which("clang-format-19"), "clang-format-19 is not installed")
    def test_format(self):
        style = {".clang-format": "BasedOnStyle: Google\n"}
        self.caught(tidy.check_format, {"src/kv/a.cc": "int  a ;\n", **style}, "src/kv/a.cc")
        self.clean(tidy.check_format, {"src/kv/a.cc": "int a;\n", **style})


class Words(RuleTest):
    def test_banned(self):
        for text in ["FIXME", "XXX", "a HACK", "TODO later", "TODO(me)", "is not implemented", "a stub for x", "placeholder",
                     "TEST(A, DISABLED_b)", "GTEST_SKIP();"]:
            self.caught(tidy.check_words, {"src/kv/a.cc": f"\n// {text}\n"}, "src/kv/a.cc:2")
        self.caught(tidy.check_words, {"rust/x/src/lib.rs": "fn a() { todo!() }"}, "todo!(")
        self.caught(tidy.check_words, {"tests/e2e/a_test.py": "@pytest.mark.skip\n"}, "skip")

    def test_allowed(self):
        self.clean(tidy.check_words, {"src/kv/a.cc": "// TODO(ann): when pages can be larger than blocks. stubborn, mkstempXXXXXX\n",
                                      "src/kv/a_test.cc": 'GTEST_SKIP() << "no AVX-512 here";',
                                      "web/a.html": '<input placeholder="Ask">'})


class Calls(RuleTest):
    def test_banned_in_simulated_areas(self):
        for call in ["std::chrono::steady_clock::now()", "time(nullptr)", "std::random_device r", "rand()", "::socket(1, 2, 3)",
                     "std::this_thread::sleep_for(x)", "std::mt19937 r"]:
            self.caught(tidy.check_calls, {"src/sched/a.cc": f"auto x = {call};\n"}, "interface")
            self.clean(tidy.check_calls, {"src/net/a.cc": f"auto x = {call};\n", "src/sched/a_test.cc": f"auto x = {call};\n"})

    def test_files_in_pure_areas(self):
        self.caught(tidy.check_calls, {"src/kv/a.cc": "std::ifstream f(x);\n"}, "files")

    def test_memory(self):
        for call in ["new int", "shared_ptr<T> x(new T)", "new (p) T", "delete p", "delete[] p", "malloc(3)", "std::free(p)"]:
            self.caught(tidy.check_calls, {"src/kv/a.cc": f"f({call});\n"}, "own memory")

    def test_memory_look_alikes(self):
        self.clean(tidy.check_calls, {"src/kv/a.cc": "return std::unique_ptr<T>(new T(3));\nstd::unique_ptr<T> t(new T);\nA(const A&) = delete;\n// a new page, delete it\nauto s = \"new x\"; tc_free(s);\n"
                                                     "x.free(3); int new_pages = 10'000;\nauto r = R\"(new x)\";\n"})

    def test_using_namespace_std(self):
        self.caught(tidy.check_calls, {"apps/a/main.cc": "using namespace std;\n"}, "name what is used")


class HeadersCompile(unittest.TestCase):
    def run_on(self, root: pathlib.Path) -> subprocess.CompletedProcess:
        script = pathlib.Path(headers_compile.__file__)
        return subprocess.run([sys.executable, "-B", script, root, root / "build"], capture_output=True, text=True)

    def test_header_that_needs_another_first(self):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder).resolve()
            (root / "src/kv").mkdir(parents=True)
            (root / "build").mkdir()
            header = root / "src/kv/a.h"
            commands = f'[{{"directory": "{root}", "file": "{root}/src/kv/a.cc", "command": "ccache c++ -I{root}/src -std=c++20 -o a.o -c a.cc"}}]'
            (root / "build/compile_commands.json").write_text(commands)
            header.write_text(HEADER + "inline std::string A() { return {}; }\n")
            result = self.run_on(root)
            self.assertEqual(result.returncode, 1)
            self.assertIn("src/kv/a.h: does not compile alone", result.stdout)
            header.write_text(HEADER + "#include <string>\ninline std::string A() { return {}; }\n")
            self.assertEqual(self.run_on(root).returncode, 0)
            # What passed is remembered by content: the same text is not compiled again, a changed one is.
            (root / "build/compile_commands.json").write_text(commands.replace("c++ ", "false "))
            self.assertEqual(self.run_on(root).returncode, 1)

    def test_reads_through_own_includes(self):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            (root / "a.h").write_text('#include "b.h"\n#include <vector>\n')
            (root / "b.h").write_text('#include "a.h"\n')
            self.assertEqual(headers_compile.own_files_below(root / "a.h", [root]), [root / "a.h", root / "b.h"])


if __name__ == "__main__":
    unittest.main()
