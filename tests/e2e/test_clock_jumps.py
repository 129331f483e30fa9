# SPDX-License-Identifier: Apache-2.0
"""Clocks of a cluster's hosts that are set while requests run: leases, silence, deadlines and queues go by a clock that
nobody can set, so nothing happens."""

import email.utils
import struct
import time
import urllib.request

import pytest

from cluster import TOKEN, Cluster, stream_text
from server import Server, binary
from test_etcd import TTL_S, etcd  # noqa: F401 (a fixture)

DAY_S = 86_400
JUMPS_S = (DAY_S, -400 * DAY_S, 3, 40 * 365 * DAY_S, 0)
# Silence after which a peer counts as gone (net::ChannelOptions::dead_after), and leases, seconds.
LONGER_THAN_ANY_SILENCE_S = 4.0 + TTL_S
BODY = {"prompt": "A long story of a clock. " * 40, "max_tokens": 150, "ignore_eos": True}


class Clock:
    """The time of day of every process that is started with its environment."""

    def __init__(self, folder):
        self.file = folder / "clock"
        self.jump(0)
        self.environment = {"LD_PRELOAD": str(binary().parent / "libclock_jump.so"), "CLOCK_JUMP_FILE": str(self.file)}

    def jump(self, seconds: int) -> None:
        # In place: the processes have this file mapped.
        with open(self.file, "r+b" if self.file.exists() else "w+b") as file:
            file.write(struct.pack("<q", seconds))


def seconds_off(url: str) -> float:
    with urllib.request.urlopen(url + "/health", timeout=10) as answer:
        return email.utils.parsedate_to_datetime(answer.headers["Date"]).timestamp() - time.time()


@pytest.mark.parametrize("whose", ["conductor", "nodes", "all"])
def test_clocks_that_jump_change_nothing(halfmoon, model, etcd, tmp_path, monkeypatch, whose):  # noqa: F811
    with Server(model, "-t", "1") as alone:
        expected, _ = stream_text(alone.url, BODY)
    clock = Clock(tmp_path)
    where = ("--etcd", etcd.url, "--cluster-name", "clocks")
    cluster = Cluster(model, "--policy", "global", *where)
    try:
        for name, value in (clock.environment if whose != "nodes" else {}).items():
            monkeypatch.setitem(TOKEN, name, value)
        conductor = cluster.start_conductor()
        for name, value in clock.environment.items():
            monkeypatch.setitem(TOKEN, name, value) if whose != "conductor" else monkeypatch.delitem(TOKEN, name)
        jumping = [conductor] if whose != "nodes" else []
        for name, role in (("prefill", "prefill"), ("decode", "decode")):
            node = cluster.start_node(name, role, *where, join=False)
            jumping += [node] if whose != "conductor" else []
        cluster.wait_nodes(2)
        cluster.conductor.wait_ready()
        before = cluster.status()

        def set_clock(count):
            if count % 25 == 0:
                clock.jump(JUMPS_S[count // 25 % len(JUMPS_S)])

        text, last = stream_text(cluster.url, BODY, set_clock)
        assert text == expected and last["usage"]["completion_tokens"] == 150
        for shift in JUMPS_S:
            clock.jump(shift)
            assert all(abs(seconds_off(process.url) - shift) < 60 for process in jumping), "no clock has jumped"
            # Another prompt each time, so that KV travels; the same answer as before for the one that is cached.
            stream_text(cluster.url, {**BODY, "prompt": f"After {shift} seconds. " * 40, "max_tokens": 10})
            again, _ = stream_text(cluster.url, BODY)
            assert again == expected
        clock.jump(-DAY_S)
        time.sleep(LONGER_THAN_ANY_SILENCE_S)
        after = cluster.wait_idle()
        assert after["moved"] == before["moved"] == 0 and after["failed"] == 0
        assert [node["connected"] for node in after["nodes"]] == [True, True]
        assert after["membership"] == "etcd: connected"
        assert "is gone" not in cluster.output
    finally:
        cluster.close()
