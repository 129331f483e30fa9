# SPDX-License-Identifier: Apache-2.0
"""Prefixes that lie in memory or on the disk of other nodes: found, fetched and answered with the bits of one server, whatever
dies or breaks meanwhile."""

import concurrent.futures
import contextlib
import pathlib
import signal
import struct
import time

import pytest

from cluster import Cluster, free_port
from server import Server

# Alone and here the weights are the same; a small KV memory makes prompts leave it.
NODE = ("-c", "2048", "--kv-memory", "0.12")
DISK = "64M"
BLOCK_TOKENS = 32


def prompt_of(number: int, sentences: int = 60) -> str:
    return f"Report number {number}. " + "".join(
        f"Line {line}: the fox number {number * 7 + line} keeps bees. " for line in range(sentences))


def body_of(number: int, **fields) -> dict:
    return {"prompt": prompt_of(number), "max_tokens": 10, "seed": number, "temperature": 0.8, "logprobs": 2, **fields}


def said(answer: dict):
    choice = answer["choices"][0]
    return choice["text"], choice["logprobs"], choice["finish_reason"]


def cached(answer: dict) -> int:
    return answer["usage"]["prompt_tokens_details"]["cached_tokens"]


@pytest.fixture(scope="module")
def right(halfmoon, model):
    """right(number): what one server without a store answers."""
    answers = {}
    with Server(model, "-t", "1", "-c", "2048") as alone:
        def ask(number):
            if number not in answers:
                answers[number] = alone.post_json("/v1/completions", body_of(number))
            return answers[number]
        yield ask


@pytest.fixture
def start_cluster(halfmoon, model):
    """start_cluster(*conductor_flags): one without nodes."""
    with contextlib.ExitStack() as stack:
        def start(*conductor_flags):
            cluster = Cluster(model, "--policy", "global", *conductor_flags)
            stack.callback(cluster.close)
            cluster.start_conductor()
            return cluster
        yield start


@pytest.fixture
def folders(tmp_path):
    """folders(name): flags of a node whose disk has that name."""
    return lambda name, *more: (*NODE, "--kv-cache-dir", str(tmp_path / name), "--kv-disk", DISK, *more)


def ask(cluster, number, **fields):
    return cluster.conductor.post_json("/v1/completions", body_of(number, **fields))


def wait_tier(cluster, name, tier, count):
    cluster.wait(lambda _: cluster.node(name).get("blocks", {}).get(tier, 0) >= count, f"{name} has no {count} blocks in {tier}")


def wait_fetched(cluster, tier, count):
    """A node tells the end of what it gave on its own: that may come after the answer that was made of it."""
    return cluster.wait(lambda status: status["fetched_blocks"][tier] == count,
                        f"not {count} blocks were fetched from {tier}")


def blocks_of(answer):
    """Whole blocks of the prompt, without the last token."""
    return (answer["usage"]["prompt_tokens"] - 1) // BLOCK_TOKENS


def fill(cluster, name, flags, numbers, role="both"):
    """A node that has computed those prompts and has them on its disk, and then in no page: it has been restarted."""
    cluster.start_node(name, role, *flags)
    cluster.wait(lambda status: any(node["name"] == name and node["connected"] for node in status["nodes"]), "no node")
    count = 0
    for number in numbers:
        answer = cluster.nodes[name].post_json("/v1/completions", body_of(number))
        count += blocks_of(answer)
    wait_tier(cluster, name, "ssd", count)
    assert cluster.nodes[name].terminate() == 0
    cluster.wait(lambda status: not any(node["name"] == name and node["connected"] for node in status["nodes"]), "still there")
    cluster.start_node(name, role, *flags)
    cluster.wait(lambda _: cluster.node(name).get("connected"), "not back")
    wait_tier(cluster, name, "ssd", count)
    assert cluster.node(name)["blocks"]["pages"] == 0
    return count


def add_reader(cluster, name, *flags):
    """From now on prompts are read and answered there: the nodes that keep blocks only decode."""
    cluster.start_node(name, "both", *(flags or NODE))
    cluster.wait(lambda _: cluster.node(name).get("connected"), "no reader")


def metric(server, name, **labels):
    for line in server.get_text("/metrics").splitlines():
        if line.startswith(name + "{") and all(f'{key}="{value}"' in line for key, value in labels.items()):
            return float(line.rsplit(" ", 1)[1])
    raise AssertionError(f"no {name} {labels}")


def test_prefix_on_the_disk_of_a_node_is_fetched_from_there(start_cluster, folders, right):
    cluster = start_cluster()
    fill(cluster, "keeper", folders("keeper"), [1, 2], role="decode")
    add_reader(cluster, "reader")
    answer = ask(cluster, 1)
    assert said(answer) == said(right(1))
    assert cached(answer) >= blocks_of(answer) * BLOCK_TOKENS
    assert cluster.wait_idle()["fetched"] == 1
    wait_fetched(cluster, "ssd", blocks_of(answer))
    assert cluster.node("keeper")["hits"]["ssd"] >= blocks_of(answer)
    assert metric(cluster.conductor, "halfmoon_cluster_fetched_blocks_total", tier="ssd") == blocks_of(answer)
    assert metric(cluster.conductor, "halfmoon_cluster_node_blocks", node="keeper", tier="ssd") >= 2 * blocks_of(answer)
    assert metric(cluster.conductor, "halfmoon_cluster_node_hits_total", node="keeper", tier="ssd") >= blocks_of(answer)
    assert cluster.node("keeper")["network_bytes_per_s"] >= 0
    # It stays where it was fetched, and that is known: nothing is fetched for it any more.
    again = ask(cluster, 1)
    assert said(again) == said(right(1)) and cached(again) >= cached(answer)
    assert cluster.wait_idle()["fetched"] == 1


def test_prefix_in_the_pool_of_a_node(start_cluster, right):
    cluster = start_cluster()
    cluster.start_node("keeper", "decode", "-c", "2048", "--kv-memory", "0.06", "--kv-pool", "128M")
    cluster.wait(lambda _: cluster.node("keeper").get("connected"), "no node")
    for number in range(1, 5):
        cluster.nodes["keeper"].post_json("/v1/completions", body_of(number))
    # Pages hold one of them at most.
    wait_tier(cluster, "keeper", "dram", 4 * blocks_of(right(1)))
    add_reader(cluster, "reader")
    answer = ask(cluster, 1)
    assert said(answer) == said(right(1))
    status = cluster.wait(lambda status: status["fetched_blocks"]["dram"] > 0, "nothing is fetched from the pool")
    assert status["fetched_blocks"]["ssd"] == 0


def test_conductor_that_comes_back_knows_every_tier(start_cluster, folders, right):
    cluster = start_cluster("--port", str(free_port()))
    count = fill(cluster, "keeper", folders("keeper"), [1, 2], role="decode")
    add_reader(cluster, "reader")
    cluster.conductor.kill()
    cluster.start_conductor()
    cluster.wait_nodes(2)
    wait_tier(cluster, "keeper", "ssd", count)
    answer = ask(cluster, 2)
    assert said(answer) == said(right(2)) and cached(answer) >= blocks_of(answer) * BLOCK_TOKENS
    wait_fetched(cluster, "ssd", blocks_of(answer))


def test_draining_node_serves_what_it_keeps(start_cluster, folders, right):
    """It takes nothing new, and ends what it has: whoever is asked instead gets its blocks."""
    cluster = start_cluster()
    fill(cluster, "keeper", folders("keeper"), [1])
    long = {"prompt": "Count: one two three", "max_tokens": 700, "ignore_eos": True}
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        running = pool.submit(cluster.conductor.post_json, "/v1/completions", long)
        cluster.wait(lambda _: cluster.node("keeper")["running"] > 0, "nothing runs")
        cluster.nodes["keeper"].process.send_signal(signal.SIGTERM)
        cluster.start_node("other", "both", *NODE)
        cluster.wait(lambda _: cluster.node("keeper").get("health") == "draining" and cluster.node("other").get("connected"),
                     "not draining")
        answer = ask(cluster, 1)
        assert said(answer) == said(right(1)) and cached(answer) >= blocks_of(answer) * BLOCK_TOKENS
        assert running.result(60)["usage"]["completion_tokens"] == 700
    cluster.wait_idle()


def drop_records(folder: pathlib.Path, drop) -> int:
    """Clears the records of written slots for which drop(order of writing) holds; how many are left."""
    left = 0
    found = []
    for path in folder.glob("*.kvseg"):
        slots = struct.unpack_from("<I", path.read_bytes()[:64], 20)[0]
        with open(path, "rb") as file:
            file.seek(4096)
            table = file.read(64 * slots)
        for slot in range(slots):
            record = table[64 * slot:64 * slot + 64]
            if record[:4] == b"HKVB":
                found.append((struct.unpack_from("<Q", record, 40)[0], path, slot))
    for order, (_, path, slot) in enumerate(sorted(found)):
        if not drop(order):
            left += 1
            continue
        with open(path, "r+b") as file:
            file.seek(4096 + 64 * slot)
            file.write(bytes(64))
    return left


def restart_with(cluster, name, flags, folder, drop, role):
    assert cluster.nodes[name].terminate() == 0
    left = drop_records(folder, drop)
    cluster.start_node(name, role, *flags)
    cluster.wait(lambda _: cluster.node(name).get("connected") and cluster.node(name)["blocks"]["ssd"] == left, "not back")
    return left


def test_prefix_in_pieces_on_three_nodes(start_cluster, folders, right, tmp_path):
    """The beginning lies on one disk, the middle on a second, the end on a third."""
    cluster = start_cluster()
    blocks = blocks_of(right(1))
    first, second = blocks // 3, 2 * blocks // 3
    parts = {"a": lambda block: block >= first, "b": lambda block: not first <= block < second, "c": lambda block: block < second}
    for name, drop in parts.items():
        fill(cluster, name, folders(name), [1], role="decode")
        assert restart_with(cluster, name, folders(name), tmp_path / name, drop, "decode") > 0
    add_reader(cluster, "reader")
    answer = ask(cluster, 1)
    assert said(answer) == said(right(1))
    assert cached(answer) >= blocks * BLOCK_TOKENS
    assert wait_fetched(cluster, "ssd", blocks)["fetched"] == 1


def test_own_disk_has_the_beginning_and_another_node_the_rest(start_cluster, folders, right, tmp_path):
    cluster = start_cluster()
    blocks = blocks_of(right(1))
    half = blocks // 2
    fill(cluster, "a", folders("a"), [1])
    fill(cluster, "b", folders("b"), [1], role="decode")
    restart_with(cluster, "a", folders("a"), tmp_path / "a", lambda block: block >= half, "both")
    restart_with(cluster, "b", folders("b"), tmp_path / "b", lambda block: block < half, "decode")
    answer = ask(cluster, 1)
    assert said(answer) == said(right(1))
    assert cached(answer) >= blocks * BLOCK_TOKENS
    wait_fetched(cluster, "ssd", blocks - half)


def test_damaged_block_ends_the_prefix_and_the_rest_is_computed(start_cluster, folders, right, tmp_path):
    cluster = start_cluster()
    fill(cluster, "keeper", folders("keeper"), [1], role="decode")
    blocks = blocks_of(right(1))
    # Blocks lie in the order in which they were computed, the sixth one in the first segment.
    [path] = (tmp_path / "keeper").glob("*-1.kvseg")
    with open(path, "r+b") as file:
        header = file.read(72)
        slots, page, slot_bytes = struct.unpack_from("<I", header, 20)[0], *struct.unpack_from("<QxxxxxxxxxxxxxxxxxxxxxxxxQ", header, 24)
        data = 4096 + (64 * slots + 4095) // 4096 * 4096
        file.seek(data + 5 * slot_bytes + page // 2)
        file.write(b"damage")
    add_reader(cluster, "reader")
    answer = ask(cluster, 1)
    assert said(answer) == said(right(1))
    assert cached(answer) == 5 * BLOCK_TOKENS < blocks * BLOCK_TOKENS
    wait_fetched(cluster, "ssd", 5)
    assert metric(cluster.nodes["keeper"], "halfmoon_kv_store_corrupt_blocks_total", tier="disk") == 1


@pytest.mark.parametrize("delay_s", [0.0, 0.02])
def test_keeper_killed_while_it_serves(start_cluster, folders, right, delay_s):
    cluster = start_cluster()
    fill(cluster, "keeper", folders("keeper"), [1, 2, 3], role="decode")
    add_reader(cluster, "reader")
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(ask, cluster, number) for number in (1, 2, 3)]
        cluster.wait(lambda status: status["fetched"] > 0, "nothing is fetched")
        time.sleep(delay_s)
        cluster.kill("keeper")
        for number, answer in zip((1, 2, 3), answers):
            assert said(answer.result(60)) == said(right(number)), number
    cluster.wait_idle()


def test_asked_by_many_a_prefix_spreads(start_cluster, folders, right):
    """Each node that reads it keeps what it fetched, and says so."""
    cluster = start_cluster()
    fill(cluster, "keeper", folders("keeper"), [1], role="decode")
    blocks = blocks_of(right(1))
    readers = {"r1", "r2"}
    for name in readers:
        add_reader(cluster, name, *folders(name))
    assert said(ask(cluster, 1)) == said(right(1))
    cluster.wait(lambda _: any(cluster.node(name)["blocks"]["pages"] >= blocks for name in readers), "nobody keeps it")
    # While that one is away the other has to read it.
    first = next(name for name in readers if cluster.node(name)["blocks"]["pages"] >= blocks)
    cluster.pause(first)
    cluster.wait(lambda status: not any(node["name"] == first and node["connected"] for node in status["nodes"]), "still there")
    answer = ask(cluster, 1)
    assert said(answer) == said(right(1)) and cached(answer) >= blocks * BLOCK_TOKENS
    cluster.resume(first)
    cluster.wait_nodes(3)
    for name in readers:
        wait_tier(cluster, name, "pages", blocks)
        wait_tier(cluster, name, "ssd", blocks)
    assert cluster.wait_idle()["fetched"] == 2
    again = ask(cluster, 1)
    assert said(again) == said(right(1)) and cached(again) >= blocks * BLOCK_TOKENS
    assert cluster.wait_idle()["fetched"] == 2, "it is where it is wanted"
