# SPDX-License-Identifier: Apache-2.0
"""The folder of cached weights as a user meets it: several processes at once, killed ones, full disks, and switching it off."""

import resource
import signal
import subprocess
import time

import pytest

from server import program_environment


@pytest.fixture
def generate(halfmoon, model, tmp_path):
    """generate(*flags, **Popen options): the running process; its cache is tmp_path/weights."""
    def start(*flags, **options):
        command = [halfmoon, "generate", "-m", model, "--weight-cache-dir", tmp_path / "weights", "--prompt", "The moon is",
                   "--max-tokens", "8", "--temperature", "0", *flags]
        return subprocess.Popen(list(map(str, command)), env=program_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, **options)
    return start


def answer(process):
    """(standard output, standard error) of a process that has to end well."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out, err


def files(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_starts_answer_alike_with_and_without(generate, tmp_path):
    plain = answer(generate("--no-cache"))
    assert files(tmp_path / "weights") == []
    assert answer(generate()) == plain
    names = files(tmp_path / "weights")
    assert len(names) == 1 and names[0].endswith(".weights")
    assert answer(generate()) == plain
    assert answer(generate("--no-cache")) == plain
    assert files(tmp_path / "weights") == names


def test_processes_at_once_do_no_harm(generate, tmp_path):
    running = [generate() for _ in range(3)]
    answers = [answer(process) for process in running]
    assert len({out for out, _ in answers}) == 1
    assert len(files(tmp_path / "weights")) == 1
    assert answer(generate()) == (answers[0][0], "")


def test_killed_while_it_writes(generate, tmp_path):
    seen = False
    for _ in range(20):
        process = generate()
        deadline = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < deadline:
            if any(name.endswith(".tmp") for name in files(tmp_path / "weights")):
                break
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
        names = files(tmp_path / "weights")
        if names and names[0].endswith(".tmp"):
            seen = True
            break
        for name in names:
            (tmp_path / "weights" / name).unlink()
    assert seen, "it was never caught while it wrote"
    out, err = answer(generate())
    assert err == ""
    assert [name.endswith(".weights") for name in files(tmp_path / "weights")] == [True]
    assert answer(generate()) == (out, "")


def test_no_room_is_one_line(generate, tmp_path):
    plain, _ = answer(generate("--no-cache"))
    limit = 8 << 20
    out, err = answer(generate(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))))
    assert out == plain
    assert err.count("\n") == 1 and "not cached" in err and "ulimit -f" in err
    assert files(tmp_path / "weights") == []
    out, err = answer(generate("--weight-cache-size", "1M"))
    assert out == plain
    assert err.count("\n") == 1 and "--weight-cache-size" in err and "--no-cache" in err


def test_damage_is_found_by_doctor_and_mended_by_a_start(generate, halfmoon_run, tmp_path):
    plain = answer(generate())
    folder = tmp_path / "weights"
    good = halfmoon_run("doctor", "--weight-cache-dir", folder, "--check-cache")
    assert good.returncode == 0 and "checked, good" in good.stdout
    path = folder / files(folder)[0]
    with open(path, "r+b") as file:
        file.seek(50 << 20)
        byte = file.read(1)
        file.seek(50 << 20)
        file.write(bytes([byte[0] ^ 1]))
    bad = halfmoon_run("doctor", "--weight-cache-dir", folder, "--check-cache")
    assert bad.returncode == 1 and "is damaged" in bad.stdout
    out, err = answer(generate())
    assert out == plain[0] and "packed again" in err
    assert answer(generate()) == plain


def test_server_stopped_right_after_its_start_keeps_what_it_prepared(start_server, tmp_path):
    server = start_server("--weight-cache-dir", str(tmp_path / "weights"))
    server.wait_output("being written to the cache")
    assert server.terminate() == 0
    assert [name.endswith(".weights") for name in files(tmp_path / "weights")] == [True]
    again = start_server("--weight-cache-dir", str(tmp_path / "weights"))
    again.wait_output("mapped from the cache")
