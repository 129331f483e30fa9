# SPDX-License-Identifier: Apache-2.0
"""Measures llama.cpp through its C interface, as `halfmoon bench` measures halfmoon. Run by compare_llama_cpp.py.

    python llama_cpp_worker.py bench MODEL THREADS REPACK PREFILL DECODE_BATCHES DECODE REPEATS
    python llama_cpp_worker.py start MODEL THREADS REPACK PROMPT

`bench` prints one JSON line a case: median and spread of REPEATS runs after one that is not counted. `start` prints the
seconds from before the model is opened until its first token is sampled; Python's own start is not in them. REPACK is
on or off: whether llama.cpp may copy weights into layouts of its own.
"""

import ctypes
import json
import sys
import time

import numpy as np

import llama_cpp.llama_cpp as llama

START_CONTEXT = 512  # Small, since clearing a large KV cache would count against llama.cpp.


@llama.llama_log_callback
def discard_log(level, text, user_data):
    del level, text, user_data


def random_ids(count, vocabulary):
    """The ids that `halfmoon bench` uses: std::mt19937 seeded with 1, modulo the vocabulary."""
    raw = np.random.RandomState(1).randint(0, 1 << 32, size=count, dtype=np.uint32)
    return (raw % vocabulary).astype(np.int32)


def load_model(path, repack):
    params = llama.llama_model_default_params()
    params.n_gpu_layers = 0
    params.use_extra_bufts = repack
    model = llama.llama_model_load_from_file(path.encode(), params)
    if not model:
        raise RuntimeError(f"llama.cpp cannot load {path}")
    return model


def make_context(model, threads, sequences, tokens):
    params = llama.llama_context_default_params()
    params.n_ctx = sequences * tokens
    params.n_batch = params.n_ubatch = 512
    params.n_seq_max = sequences
    params.n_threads = params.n_threads_batch = threads
    context = llama.llama_init_from_model(model, params)
    if not context:
        raise RuntimeError("llama.cpp cannot make a context")
    return context


def make_batch(rows):
    """`rows`: (id, position, sequence, wants logits)."""
    batch = llama.llama_batch_init(len(rows), 0, 1)
    batch.n_tokens = len(rows)
    for i, (token, position, sequence, logits) in enumerate(rows):
        batch.token[i] = int(token)
        batch.pos[i] = position
        batch.n_seq_id[i] = 1
        batch.seq_id[i][0] = sequence
        batch.logits[i] = logits
    return batch


def measure(model, threads, name, batches, sequences, positions, repeats):
    """Times one pass over the prepared batches, on an empty cache each time."""
    context = make_context(model, threads, sequences, positions)
    memory = llama.llama_get_memory(context)
    seconds = []
    for _ in range(1 + repeats):
        llama.llama_memory_clear(memory, False)
        begin = time.perf_counter()
        for batch in batches:
            if llama.llama_decode(context, batch) != 0:
                raise RuntimeError(f"llama_decode failed in {name}")
        llama.llama_synchronize(context)
        seconds.append(time.perf_counter() - begin)
    tokens = sum(batch.n_tokens for batch in batches)
    for batch in batches:
        llama.llama_batch_free(batch)
    llama.llama_free(context)
    counted = sorted(seconds[1:])
    median = counted[len(counted) // 2]
    spread = (counted[-1] - counted[0]) / median
    print(json.dumps({"case": name, "tokens_per_s": tokens / median, "spread": spread}), flush=True)


def bench(path, threads, repack, prefill, decode_batches, decode, repeats):
    model = load_model(path, repack)
    vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    ids = random_ids(prefill, vocabulary)
    rows = [(ids[i], i, 0, i == prefill - 1) for i in range(prefill)]
    batches = [make_batch(rows[i : i + 512]) for i in range(0, prefill, 512)]
    measure(model, threads, f"prefill {prefill}", batches, 1, prefill, repeats)
    for count in decode_batches:
        ids = random_ids(count * decode, vocabulary).reshape(count, decode)
        steps = [make_batch([(ids[s, t], t, s, True) for s in range(count)]) for t in range(decode)]
        measure(model, threads, f"decode x{count}", steps, count, decode, repeats)


def start(path, threads, repack, prompt):
    text = prompt.encode()
    tokens = (llama.llama_token * (len(text) + 8))()
    begin = time.perf_counter()
    llama.llama_backend_init()
    model = load_model(path, repack)
    context = make_context(model, threads, 1, START_CONTEXT)
    vocab = llama.llama_model_get_vocab(model)
    count = llama.llama_tokenize(vocab, text, len(text), tokens, len(tokens), True, True)
    if count < 1:
        raise RuntimeError("llama_tokenize failed")
    sampler = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
    llama.llama_sampler_chain_add(sampler, llama.llama_sampler_init_greedy())
    if llama.llama_decode(context, llama.llama_batch_get_one(tokens, count)) != 0:
        raise RuntimeError("llama_decode failed")
    token = llama.llama_sampler_sample(sampler, context, -1)
    seconds = time.perf_counter() - begin
    print(json.dumps({"seconds": seconds, "prompt_tokens": count, "token": token}), flush=True)


def main():
    llama.llama_log_set(discard_log, ctypes.c_void_p(0))
    mode, path, threads, repack = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "on"
    if mode == "start":
        start(path, threads, repack, sys.argv[5])
    else:
        prefill, decode, repeats = int(sys.argv[5]), int(sys.argv[7]), int(sys.argv[8])
        bench(path, threads, repack, prefill, [int(n) for n in sys.argv[6].split(",")], decode, repeats)


if __name__ == "__main__":
    try:
        main()
    except RuntimeError as error:
        sys.exit(f"error: {error}")
