# SPDX-License-Identifier: Apache-2.0
"""Hosts with a network between them that a test can shape, drop and cut: network namespaces, whose packets this process
carries. No kernel module but tun is needed, and what is lost is the same each time. Needs root."""

from __future__ import annotations

import dataclasses
import fcntl
import heapq
import itertools
import os
import random
import select
import shutil
import struct
import subprocess
import threading
import time

SET_INTERFACE = 0x400454CA  # TUNSETIFF
IP_PACKETS_ONLY = 0x1001  # IFF_TUN | IFF_NO_PI
NET = "10.219.77"
MTU = 16000  # fewer packets for this process to carry
MOST_QUEUED_S = 0.5  # of a link with a rate; what would wait longer is dropped, as by a router


def why_not() -> str:
    """Why there can be no such hosts here; empty where there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "iproute2 is not installed"
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        return f"/dev/net/tun: {error}"
    probe = f"hm-probe-{os.getpid()}"
    done = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True)
    if done.returncode != 0:
        return f"ip netns add: {done.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", probe], check=True)
    return ""


@dataclasses.dataclass
class Link:
    """Between two hosts, both ways alike."""

    up: bool = True
    delay_s: float = 0.0
    loss: float = 0.0
    bytes_per_s: float = 0.0  # 0: as fast as it goes
    carried_bytes: int = 0
    free_at: float = 0.0


class Network:
    """Hosts "a", "b", ... of their own namespaces, and this one, which reaches all of them over links of its own."""

    def __init__(self, *names: str):
        self._names = names
        self._prefix = f"hm{os.getpid()}"
        self._links: dict[frozenset, Link] = {}
        self._files: dict[int, str] = {}
        self._random = random.Random(1)
        self._stop_read, self._stop_write = os.pipe()
        self._thread = threading.Thread(target=self._carry, daemon=True)
        try:
            for number, name in enumerate([*names, ""], 1):
                self._add(name, number)
        except BaseException:
            self._remove()
            raise
        self._addresses = {name: f"{NET}.{number}" for number, name in enumerate([*names, ""], 1)}
        self._by_address = {bytes(map(int, address.split("."))): file for address, file in
                            zip(self._addresses.values(), self._files)}
        self._thread.start()

    def address(self, name: str) -> str:
        return self._addresses[name]

    def inside(self, name: str) -> tuple[str, ...]:
        """What to put in front of a command that is to run on that host."""
        return ("ip", "netns", "exec", f"{self._prefix}-{name}")

    def link(self, one: str, other: str) -> Link:
        return self._links.setdefault(frozenset((one, other)), Link())

    def close(self) -> None:
        os.write(self._stop_write, b"x")
        self._thread.join()
        self._remove()

    def _add(self, name: str, number: int) -> None:
        device = f"{self._prefix}n{number}"  # names of interfaces are short
        file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        self._files[file] = name
        fcntl.ioctl(file, SET_INTERFACE, struct.pack("16sH", device.encode(), IP_PACKETS_ONLY))
        inside: tuple[str, ...] = ()
        if name:
            _ip("netns", "add", f"{self._prefix}-{name}")
            _ip("link", "set", device, "netns", f"{self._prefix}-{name}")
            inside = ("-n", f"{self._prefix}-{name}")
            _ip(*inside, "link", "set", "lo", "up")
        _ip(*inside, "addr", "add", f"{NET}.{number}/24", "dev", device)
        _ip(*inside, "link", "set", device, "mtu", str(MTU), "up")

    def _remove(self) -> None:
        for file in [*self._files, self._stop_read, self._stop_write]:
            os.close(file)  # the interface goes with it
        for name in self._names:
            subprocess.run(["ip", "netns", "del", f"{self._prefix}-{name}"], capture_output=True)

    def _carry(self) -> None:
        poll = select.poll()
        for file in [*self._files, self._stop_read]:
            poll.register(file, select.POLLIN)
        waiting: list = []  # (due, number, file, packet)
        numbers = itertools.count()
        while True:
            timeout = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
            for file, _ in poll.poll(None if timeout is None else timeout * 1000 + 1):
                if file == self._stop_read:
                    return
                for _ in range(64):
                    try:
                        packet = os.read(file, MTU + 100)
                    except BlockingIOError:
                        break
                    due = self._due(file, packet)
                    if due is not None:
                        heapq.heappush(waiting, (due, next(numbers), self._by_address[packet[16:20]], packet))
            now = time.monotonic()
            while waiting and waiting[0][0] <= now:
                _, _, file, packet = heapq.heappop(waiting)
                try:
                    os.write(file, packet)
                except OSError:
                    pass  # a full queue loses packets, as anywhere

    def _due(self, file: int, packet: bytes) -> float | None:
        """When the packet arrives; None where it does not."""
        target = self._by_address.get(packet[16:20])
        if packet[0] >> 4 != 4 or target is None:
            return None
        link = self.link(self._files[file], self._files[target])
        if not link.up or (link.loss > 0 and self._random.random() < link.loss):
            return None
        now = time.monotonic()
        link.carried_bytes += len(packet)
        if link.bytes_per_s > 0:
            if link.free_at - now > MOST_QUEUED_S:
                return None
            now = link.free_at = max(now, link.free_at) + len(packet) / link.bytes_per_s
        return now + link.delay_s


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")
