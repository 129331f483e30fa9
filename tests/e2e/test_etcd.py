# SPDX-License-Identifier: Apache-2.0
"""Membership of a cluster through a real etcd: nodes that come, leave and are killed, and an etcd that stands still, ends or
loses its disk for longer than leases last. The nodes and the conductor are processes that do nothing else (cluster_member.cc)."""

import base64
import json
import os
import pathlib
import queue
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.request

import pytest

from cluster import Cluster, stream_text
from server import binary

TTL_S = 2
WAIT_S = 60
PREFIX = "/halfmoon/e2e/nodes/"
# Debian's package puts it there; sbin folders are not on every user's PATH.
ETCD = shutil.which("etcd", path=os.environ.get("PATH", "") + ":/usr/bin:/usr/sbin:/usr/local/bin")

pytestmark = pytest.mark.skipif(ETCD is None, reason="there is no etcd here (Debian: etcd-server)")


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def encoded(text):
    return base64.b64encode(text.encode()).decode()


class Etcd:
    """One etcd of one member, which can be ended and started again on the same disk."""

    def __init__(self, folder: pathlib.Path, *flags, scheme="http"):
        self.data, self.log, self.flags = folder / "etcd", folder / "etcd.log", flags
        client, peer = free_ports(2)
        self.url, self.peer_url = f"{scheme}://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
        self.process = None
        self.start()

    def start(self):
        command = [ETCD, "--data-dir", self.data, "--listen-client-urls", self.url, "--advertise-client-urls", self.url,
                   "--listen-peer-urls", self.peer_url, "--initial-advertise-peer-urls", self.peer_url,
                   "--initial-cluster", f"default={self.peer_url}", *self.flags]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ETCD")}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)

    def call(self, path, body):
        """The answer to one call, tried until etcd is there."""
        deadline = time.monotonic() + WAIT_S
        while True:
            request = urllib.request.Request(self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
            try:
                with urllib.request.urlopen(request, timeout=10) as response:
                    return json.load(response)
            except OSError:
                assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()[-4000:]
                time.sleep(0.05)

    def leases(self):
        """name > the lease of each node's key"""
        kvs = self.call("/v3/kv/range", {"key": encoded(PREFIX), "range_end": encoded(PREFIX[:-1] + "0")}).get("kvs", [])
        return {base64.b64decode(kv["key"]).decode().removeprefix(PREFIX): kv["lease"] for kv in kvs}

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Member:
    """A cluster_member: its lists of nodes, and its state on demand."""

    def __init__(self, url, *arguments, ca_file=""):
        command = [binary().parent / "cluster_member", url, str(TTL_S), ca_file, *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.lists, self._states, self._changed = [], queue.Queue(), threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            value = json.loads(line)
            if isinstance(value, str):
                self._states.put(value)
                continue
            with self._changed:
                self.lists.append(value)
                self._changed.notify_all()

    def state(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._states.get(timeout=WAIT_S)

    def wait_for_state(self, begin):
        deadline = time.monotonic() + WAIT_S
        while not (state := self.state()).startswith(begin):
            assert time.monotonic() < deadline, state
            time.sleep(0.02)

    def wait_for(self, *addresses):
        with self._changed:
            assert self._changed.wait_for(lambda: self.lists and self.lists[-1] == list(addresses), WAIT_S), self.lists

    def leave(self):
        self.process.stdin.close()
        assert self.process.wait(WAIT_S) == 0

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(WAIT_S)
        for pipe in (self.process.stdin, self.process.stdout):
            try:
                pipe.close()
            except OSError:  # what was still to be written to a process that is gone
                pass


@pytest.fixture
def etcd(tmp_path):
    running = Etcd(tmp_path)
    yield running
    running.kill()


@pytest.fixture
def start():
    """start(etcd_or_url, "follow") or start(etcd_or_url, name, address): a member, ended after the test."""
    started = []

    def run(etcd, *arguments, **options):
        url = etcd if isinstance(etcd, str) else etcd.url
        started.append(Member(url, *arguments, **options))
        return started[-1]

    yield run
    for member in started:
        member.kill()


def test_nodes_join_leave_and_are_killed(etcd, start):
    conductor = start(etcd, "follow")
    conductor.wait_for()
    a = start(etcd, "a", "10.0.0.1:7001")
    conductor.wait_for("10.0.0.1:7001")
    b = start(etcd, "b", "10.0.0.2:7001")
    conductor.wait_for("10.0.0.1:7001", "10.0.0.2:7001")
    assert set(etcd.leases()) == {"a", "b"}
    a.leave()
    conductor.wait_for("10.0.0.2:7001")
    b.process.kill()
    conductor.wait_for()
    assert etcd.leases() == {}
    assert conductor.state() == "connected"
    # A later conductor learns of nodes that were there before it, and a node takes its own name over.
    killed = start(etcd, "c", "10.0.0.3:7001")
    conductor.wait_for("10.0.0.3:7001")
    killed.process.kill()
    start(etcd, "c", "10.0.0.3:7002")
    start(etcd, "follow").wait_for("10.0.0.3:7002")
    conductor.wait_for("10.0.0.3:7002")


def stop_and_continue(etcd):
    etcd.process.send_signal(signal.SIGSTOP)
    yield
    etcd.process.send_signal(signal.SIGCONT)


def kill_and_start(etcd):
    etcd.kill()
    yield
    etcd.start()


def kill_and_start_empty(etcd):
    etcd.kill()
    yield
    shutil.rmtree(etcd.data)
    etcd.start()


@pytest.mark.parametrize("outage", [stop_and_continue, kill_and_start, kill_and_start_empty])
def test_no_node_is_lost_by_an_etcd_that_is_away_for_longer_than_leases_last(etcd, start, outage):
    conductor = start(etcd, "follow")
    conductor.wait_for()
    a = start(etcd, "a", "a:1")
    conductor.wait_for("a:1")
    going = outage(etcd)
    next(going)
    conductor.wait_for_state("away for ")
    a.wait_for_state("away for ")
    time.sleep(2 * TTL_S)  # the outage itself: leases are over
    assert conductor.lists == [[], ["a:1"]]
    next(going, None)
    conductor.wait_for_state("connected")
    a.wait_for_state("connected")
    time.sleep(2 * TTL_S)  # who has not announced itself again by now is gone
    assert set(etcd.leases()) == {"a"}
    start(etcd, "b", "b:1")
    conductor.wait_for("a:1", "b:1")
    assert conductor.lists == [[], ["a:1"], ["a:1", "b:1"]]


def test_a_node_killed_while_etcd_is_away_goes_when_it_is_back(etcd, start):
    conductor = start(etcd, "follow")
    conductor.wait_for()
    start(etcd, "a", "a:1")
    conductor.wait_for("a:1")
    b = start(etcd, "b", "b:1")
    conductor.wait_for("a:1", "b:1")
    etcd.kill()
    conductor.wait_for_state("away for ")
    b.process.kill()
    time.sleep(2 * TTL_S)
    assert conductor.lists[-1] == ["a:1", "b:1"]
    etcd.start()
    conductor.wait_for("a:1")
    assert conductor.lists == [[], ["a:1"], ["a:1", "b:1"], ["a:1"]]


def test_a_conductor_that_stood_still_loses_no_node_and_learns_of_those_that_went(etcd, start):
    conductor = start(etcd, "follow")
    start(etcd, "a", "a:1")
    conductor.wait_for("a:1")
    b = start(etcd, "b", "b:1")
    conductor.wait_for("a:1", "b:1")
    conductor.process.send_signal(signal.SIGSTOP)
    b.leave()
    revision = int(etcd.call("/v3/kv/range", {"key": encoded("x")})["header"]["revision"])
    etcd.call("/v3/kv/compaction", {"revision": str(revision)})
    time.sleep(2 * TTL_S)
    conductor.process.send_signal(signal.SIGCONT)
    conductor.wait_for("a:1")


def test_a_second_endpoint_stands_in(etcd, start):
    gone, = free_ports(1)
    urls = f"http://127.0.0.1:{gone},{etcd.url}"
    conductor = start(urls, "follow")
    start(urls, "a", "a:1")
    conductor.wait_for("a:1")
    assert conductor.state() == "connected"


def test_user_and_password(etcd, start):
    etcd.call("/v3/auth/user/add", {"name": "root", "password": "p/w"})
    etcd.call("/v3/auth/role/add", {"name": "root"})
    etcd.call("/v3/auth/user/grant", {"user": "root", "role": "root"})
    etcd.call("/v3/auth/enable", {})
    host = etcd.url.removeprefix("http://")
    conductor = start(f"http://root:p%2Fw@{host}", "follow")
    start(f"http://root:p%2Fw@{host}", "a", "a:1")
    conductor.wait_for("a:1")
    stranger = start(f"http://root:wrong@{host}", "follow")
    stranger.wait_for_state("away for ")
    assert "user root: status 400" in stranger.state() and "wrong" not in stranger.state()
    nameless = start(etcd, "follow")
    nameless.wait_for_state("away for ")
    assert "user name is empty" in nameless.state()
    assert stranger.lists == nameless.lists == []


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl program to make a certificate with")
def test_https(tmp_path, start):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout",
                    key, "-out", certificate, "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"], check=True,
                   capture_output=True)
    etcd = Etcd(tmp_path, "--cert-file", certificate, "--key-file", key, scheme="https")
    try:
        conductor = start(etcd, "follow", ca_file=str(certificate))
        conductor.wait_for()
        a = start(etcd, "a", "a:1", ca_file=str(certificate))
        conductor.wait_for("a:1")
        a.leave()
        conductor.wait_for()
        stranger = start(etcd, "follow")
        stranger.wait_for_state("away for ")
        assert "TLS handshake failed" in stranger.state()
    finally:
        etcd.kill()


def test_a_cluster_of_real_processes_lives_through_etcd(halfmoon, model, etcd):
    """The conductor finds nodes by etcd alone; etcd ends in the middle of an answer and is away for longer than leases last."""
    where = ("--etcd", etcd.url, "--cluster-name", "e2e")
    cluster = Cluster(model, *where)
    try:
        cluster.start_conductor()
        for name in ("one", "two"):
            cluster.start_node(name, "both", *where, join=False)
        cluster.wait_nodes(2)
        cluster.conductor.wait_ready()
        assert cluster.status()["membership"] == "etcd: connected"
        text, last = stream_text(cluster.url, {"prompt": "Once upon a time", "max_tokens": 150, "ignore_eos": True},
                                 lambda count: etcd.kill() if count == 20 else None)
        assert last["usage"]["completion_tokens"] == 150
        cluster.wait(lambda status: "away for" in status["membership"], "etcd is gone and nobody says so", timeout_s=60)
        cluster.wait_nodes(2)
        again, _ = stream_text(cluster.url, {"prompt": "Once upon a time", "max_tokens": 150, "ignore_eos": True})
        assert again == text
        etcd.start()
        cluster.wait(lambda status: status["membership"] == "etcd: connected", "etcd is back", timeout_s=60)
        cluster.kill("one")
        cluster.wait(lambda status: len(status["nodes"]) == 1, "a killed node stays", timeout_s=60)
    finally:
        cluster.close()
