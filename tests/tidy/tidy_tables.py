# SPDX-License-Identifier: Apache-2.0
"""What the rules of tidy.py know of this project. A new row is part of the change that needs it, with its reason."""

MAX_LINES = 600
MAX_GOLDEN_BYTES = 60 << 20
CODE_FOLDERS = ["src", "apps", "examples", "bench", "tests", "rust"]
TEST_FOLDERS = ["golden", "scenario", "fuzz", "e2e"]
SCRIPTS = {"run", "test", ".ci/run"}
MACHINE_FOLDERS = ["work", "root", "home", "farm"]

# (from, to): no path may lead there, whatever the link lines say.
NEVER = [
    ("model", "kv"),  # attention takes a PagedKv view, which kernels declares
    ("sched", "store"), ("sched", "model"), ("sched", "kernels"),  # scheduling is a pure function
    ("kv", "store"),  # identity knows nothing of bytes
    ("cluster", "engine"), ("cluster", "model"), ("cluster", "kernels"),  # apps wire them; the conductor stays small
    ("sim", "model"), ("sim", "kernels"),
]

# (header prefix, where it may be included). "test" stands for *_test.cc, headers that only those
# include, and tests/.
THIRD_PARTY = [
    ("boost/asio", {"net"}),
    ("boost/beast", {"net"}),
    ("boost/json", {"base"}),
    ("boost/system", {"base", "net"}),
    ("openssl/", {"net"}),
    ("spdlog/", {"base"}),
    ("xxhash.h", {"base"}),
    ("zlib.h", {"base"}),
    ("liburing.h", {"base"}),
    ("prometheus/", {"serve"}),
    ("ucp/", {"transfer"}),
    ("textcore.h", {"text"}),
    ("CLI/", {"apps", "bench"}),
    ("gtest/", {"test"}),
    ("gmock/", {"test"}),
]

# The C library's, the kernel's and the compiler's headers that end in .h; C++ headers have no suffix.
SYSTEM_FOLDERS = ("sys/", "linux/", "netinet/", "arpa/", "sanitizer/")
SYSTEM_HEADERS = {
    "cpuid.h", "dirent.h", "dlfcn.h", "errno.h", "fcntl.h", "immintrin.h", "netdb.h", "poll.h", "pthread.h", "sched.h",
    "signal.h", "stdbool.h", "stddef.h", "stdint.h", "stdlib.h", "string.h", "termios.h",
    "time.h", "unistd.h", "arm_neon.h", "spawn.h",
}

# (pattern, reason, top folders it holds in or None for all).
_PRODUCT = {"src", "apps", "rust", "web", "examples", "bench"}
BANNED_WORDS = [
    (r"\bFIXME\b", "fix it, or file it", None),
    (r"\bXXX\b", "say what it is", None),
    (r"\bHACK\b", "say why it has to be so", None),
    (r"\bTODO\b(?!\([a-z][\w-]*\): \S)", "TODO(name): condition that makes it due", None),
    (r"\b[Nn]ot (yet )?implemented\b", "what is offered works; what is not offered is refused by name", _PRODUCT),
    (r"\bunimplemented!|\btodo!\(", "what is offered works; what is not offered is refused by name", _PRODUCT),
    (r"(?i)\bstub(bed|s)?\b", "what is offered works", _PRODUCT),
    (r"(?i)\bplaceholder\b(?!\s*=)", "what is offered works", _PRODUCT),
    (r"\bDISABLED_\w+", "a test runs or goes", None),
    (r"GTEST_SKIP\(\)(?!\s*<<)", "a skipped test says why", None),
    (r"#\[ignore\]|pytest\.mark\.skip\b(?!\(reason=)|\bxfail\b", "a test runs or goes", None),
]

# (pattern over code without comments and literals, of which a group, if there is one, has to take part; reason;
# areas it holds in or None for all; exempt files).
_SIMULATED = {"sched", "kv", "store", "cluster"}
BANNED_CALLS = [
    (r"\b(?:steady|system|high_resolution)_clock::now\b|\b(?:clock_gettime|gettimeofday|time)\s*\(|\bsleep_(?:for|until)\b",
     "the clock comes in as an interface", _SIMULATED, set()),
    (r"\b(?:random_device|mt19937(?:_64)?)\b|\bs?rand\s*\(|\bgetrandom\s*\(", "randomness comes in as an interface", _SIMULATED,
     set()),
    (r"(?<![\w:.>])(?:::)?(?:socket|connect|bind|listen|accept|send|recv)\s*\(", "the network comes in as an interface",
     _SIMULATED, set()),
    (r"\bi?o?fstream\b|(?<![\w.>])(?:::)?(?:fopen|open|pread|pwrite)\s*\(", "files come in as an interface",
     {"sched", "kv"}, set()),
    (r"\busing\s+namespace\s+std\b", "name what is used", None, set()),
    # unique_ptr<T>(new T(...)) is how a factory calls a private constructor, which make_unique cannot.
    (r"\bunique_ptr<[\w:<>, ]+>\s*\w*[({]\s*new\b|\b(new)\b\s*[\w:(\[]",
     "values, containers and make_unique own memory", None, set()),
    (r"(?<!=)(?<!= )(?<!operator )\bdelete\b", "values, containers and unique_ptr own memory", None, set()),
    (r"(?<![\w.>])(?:std::|::)?(?:malloc|calloc|realloc|aligned_alloc|posix_memalign|free)\s*\(",
     "values, containers and tensor::AlignedBuffer own memory", None, set()),
]
