# SPDX-License-Identifier: Apache-2.0
"""Measures llama.cpp through its C interface, as `halfmoon bench` measures halfmoon. Run by `halfmoon bench --compare`,
which carries this file inside.

    python llama_cpp_worker.py MODEL THREADS REPACK

REPACK is on or off: whether llama.cpp may copy weights into layouts of its own. The first line of standard output says
which version this is; then each line of standard input is a request in JSON and gets one line as its reply, which is
{"error": "..."} where it failed. Requests:

    {"do": "load"}                                         {"seconds": s}, from before the file is opened
    {"do": "measure", "case": "decode x16", "kind": "decode", "tokens": 0, "sequences": 16, "depth": 0,
     "decode_tokens": 32, "passes": 3, "stop_after_s": 2}  {"tokens": of one pass, "seconds": [a pass each]}
    {"do": "first_token", "prompt": "..."}                 {"seconds": s}; instead of a load

The KV of a depth is computed once and kept; after each pass only what the pass has added is taken away again.
"""

import ctypes
import json
import os
import sys
import time

STEP_TOKENS = 512  # micro-batch, as halfmoon's
START_CONTEXT = 512  # Small, since clearing a large KV cache would count against llama.cpp.


class Failure(Exception):
    """Becomes the reply."""


def random_ids(count, vocabulary):
    """The ids that `halfmoon bench` uses: std::mt19937 seeded with 1, modulo the vocabulary."""
    raw = numpy.random.RandomState(1).randint(0, 1 << 32, size=count, dtype=numpy.uint32)
    return (raw % vocabulary).astype(numpy.int32)


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


def prompt_batches(ids, start, wants_logits):
    """Consecutive tokens of sequence 0; the last has logits if they are wanted."""
    last = len(ids) - 1
    rows = [(token, start + i, 0, wants_logits and i == last) for i, token in enumerate(ids)]
    return [make_batch(rows[i : i + STEP_TOKENS]) for i in range(0, len(rows), STEP_TOKENS)]


def decode(context, batches, what):
    for batch in batches:
        if llama.llama_decode(context, batch) != 0:
            raise Failure(f"llama_decode failed in {what}")
    llama.llama_synchronize(context)


class Case:
    """A case with its context, its KV at the depth and its batches made ready."""

    def __init__(self, model, threads, request):
        self.name, self.depth = request["case"], request["depth"]
        self.sequences = request["sequences"]
        prefill = request["kind"] == "prefill"
        length = request["tokens"] if prefill else request["decode_tokens"]
        vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
        self.context = make_context(model, threads, self.sequences, self.depth + length)
        self.memory = llama.llama_get_memory(self.context)
        if self.depth:
            print(f"llama.cpp computes {self.depth} tokens for {self.name} ...", file=sys.stderr, flush=True)
            batches = prompt_batches(random_ids(self.depth, vocabulary), 0, False)
            decode(self.context, batches, "what lies before " + self.name)
            for batch in batches:
                llama.llama_batch_free(batch)
            for sequence in range(1, self.sequences):
                llama.llama_memory_seq_cp(self.memory, 0, sequence, -1, -1)
        ids = random_ids(self.sequences * length, vocabulary).reshape(self.sequences, length)
        if prefill:
            self.batches = prompt_batches(ids[0], self.depth, True)
        else:
            self.batches = [
                make_batch([(ids[s, t], self.depth + t, s, True) for s in range(self.sequences)]) for t in range(length)
            ]
        self.run(self.batches[:2])  # Touches what is fresh, which no whole pass is needed for.

    def run(self, batches):
        """Seconds of one pass; its KV is taken away before the next."""
        begin = time.perf_counter()
        decode(self.context, batches, self.name)
        seconds = time.perf_counter() - begin
        for sequence in range(self.sequences):
            if not llama.llama_memory_seq_rm(self.memory, sequence, self.depth, -1):
                raise Failure(f"llama.cpp cannot go back to depth {self.depth}")
        return seconds

    def measure(self, passes, stop_after_s):
        begin, seconds = time.perf_counter(), []
        while len(seconds) < passes and (not seconds or time.perf_counter() - begin < stop_after_s):
            seconds.append(self.run(self.batches))
        return {"tokens": sum(batch.n_tokens for batch in self.batches), "seconds": seconds}

    def close(self):
        for batch in self.batches:
            llama.llama_batch_free(batch)
        llama.llama_free(self.context)


def make_context(model, threads, sequences, tokens):
    params = llama.llama_context_default_params()
    params.n_ctx = sequences * tokens
    params.n_batch = params.n_ubatch = STEP_TOKENS
    params.n_seq_max = sequences
    params.n_threads = params.n_threads_batch = threads
    context = llama.llama_init_from_model(model, params)
    if not context:
        raise Failure("llama.cpp cannot make a context")
    return context


class Worker:
    def __init__(self, path, threads, repack):
        self.path, self.threads, self.repack = path, threads, repack
        self.model = None
        self.cases = {}

    def load(self):
        begin = time.perf_counter()
        llama.llama_backend_init()
        params = llama.llama_model_default_params()
        params.n_gpu_layers = 0
        params.use_extra_bufts = self.repack
        self.model = llama.llama_model_load_from_file(self.path.encode(), params)
        if not self.model:
            raise Failure(f"llama.cpp cannot load {self.path}")
        return {"seconds": time.perf_counter() - begin}

    def measure(self, request):
        name = request["case"]
        if name not in self.cases:
            self.cases[name] = Case(self.model, self.threads, request)
        measured = self.cases[name].measure(request["passes"], request["stop_after_s"])
        # Contexts are large: only one whose KV took long to compute is worth keeping.
        if not request["depth"]:
            self.cases.pop(name).close()
        return measured

    def first_token(self, prompt):
        text = prompt.encode()
        tokens = (llama.llama_token * (len(text) + 8))()
        begin = time.perf_counter()
        self.load()
        context = make_context(self.model, self.threads, 1, START_CONTEXT)
        vocabulary = llama.llama_model_get_vocab(self.model)
        count = llama.llama_tokenize(vocabulary, text, len(text), tokens, len(tokens), True, True)
        if count < 1:
            raise Failure("llama_tokenize failed")
        sampler = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        llama.llama_sampler_chain_add(sampler, llama.llama_sampler_init_greedy())
        decode(context, [llama.llama_batch_get_one(tokens, count)], "the prompt")
        token = llama.llama_sampler_sample(sampler, context, -1)
        return {"seconds": time.perf_counter() - begin, "prompt_tokens": count, "token": token}

    def answer(self, request):
        if request["do"] == "load":
            return self.load()
        if request["do"] == "measure":
            return self.measure(request)
        if request["do"] == "first_token":
            return self.first_token(request["prompt"])
        raise Failure(f"unknown request {request['do']}")


def main():
    # What the library prints on standard output by itself must not look like a reply.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def reply(fields):
        print(json.dumps(fields), file=replies, flush=True)

    try:
        global llama, llama_cpp, numpy  # pylint: disable=global-statement
        import llama_cpp
        import llama_cpp.llama_cpp as llama
        import numpy
    except (ImportError, OSError, RuntimeError) as error:
        reply({"error": f"this Python ({sys.executable}) has no llama-cpp-python that works: {error}"})
        return 1
    discard_log = llama.llama_log_callback(lambda level, text, user_data: None)
    llama.llama_log_set(discard_log, ctypes.c_void_p(0))
    worker = Worker(sys.argv[1], int(sys.argv[2]), sys.argv[3] == "on")
    reply({"version": llama_cpp.__version__})
    for line in sys.stdin:
        try:
            reply(worker.answer(json.loads(line)))
        except Failure as failure:
            reply({"error": str(failure)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
