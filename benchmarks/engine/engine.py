"""One engine, in a process of its own: told what to do by lines of JSON on its standard input, answers on a descriptor.

python -m benchmarks.engine.engine DESCRIPTOR MODEL_FOLDER OPTIONS_AS_JSON
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.engine.model import prompts

REQUESTS = 64
PROMPT_TOKENS = 16
TOKENS = 64
LONG = 900
_STEPS_S = 2.0
_LIGHT_EVERY_S = 0.5
_FORGET_S = 20.0


class Engine:
    """vLLM, offline, and what it can be told to do: each method is a command, what it returns the answer."""

    def __init__(self, model: Path, options: dict[str, Any]) -> None:
        from vllm import LLM, SamplingParams

        self._sampling = SamplingParams
        own: dict[str, Any] = {
            "model": str(model), "load_format": "dummy", "skip_tokenizer_init": True, "tensor_parallel_size": 2,
            "distributed_executor_backend": "mp", "enforce_eager": True, "dtype": "float32", "max_model_len": 1024,
            "max_num_seqs": REQUESTS, "max_num_batched_tokens": 4096, "disable_log_stats": True,
            "enable_prefix_caching": False, "seed": 0,
        }  # fmt: skip
        self._llm: Any = LLM(**own | options)
        self._prompts = [{"prompt_token_ids": tokens} for tokens in prompts(REQUESTS, PROMPT_TOKENS)]

    def _generate(self, tokens: int, requests: int = REQUESTS, logprobs: int | None = None) -> list[Any]:
        sampling = self._sampling(
            temperature=0.0, max_tokens=tokens, min_tokens=tokens, ignore_eos=True, detokenize=False, logprobs=logprobs
        )
        outputs = self._llm.generate(self._prompts[:requests], sampling, use_tqdm=False)
        return [output.outputs[0] for output in outputs]

    def tokens(self) -> dict[str, Any]:
        """What it makes of the prompts, and how probable it holds that to be."""
        made = self._generate(TOKENS, logprobs=0)
        chosen = [
            [float(step[token].logprob) for step, token in zip(one.logprobs, one.token_ids, strict=True)]
            for one in made
        ]
        return {"tokens": [list(one.token_ids) for one in made], "logprobs": chosen}

    def steps(self) -> dict[str, Any]:
        """All prompts at once, a token each a step, as often as two seconds allow: seconds a step."""
        began = time.perf_counter()
        steps = 0
        while (taken_s := time.perf_counter() - began) < _STEPS_S:
            self._generate(TOKENS)
            steps += TOKENS
        return {"step_s": taken_s / steps, "steps": steps}

    def light(self, seconds: float) -> dict[str, Any]:
        """One request of one token, every half second."""
        latencies = []
        for _ in range(int(seconds / _LIGHT_EVERY_S)):
            began = time.perf_counter()
            self._generate(1, requests=1)
            latencies.append(time.perf_counter() - began)
            time.sleep(max(0.0, _LIGHT_EVERY_S - latencies[-1]))  # the light load is that pause
        return {"latency_s": sorted(latencies)[len(latencies) // 2]}

    def answer(self, prompts: list[list[int]], tokens: int, salt: str | None = None, rounds: int = 1) -> dict[str, Any]:
        """What it makes of these prompts, how probable it holds that to be, how many tokens it did not compute, and
        how long it took; of several rounds what the last one made, all seconds, and how many failed."""
        sampling = self._sampling(
            temperature=0.0, max_tokens=tokens, min_tokens=tokens, ignore_eos=True, detokenize=False, logprobs=0
        )
        asked = [{"prompt_token_ids": one} | ({"cache_salt": salt} if salt else {}) for one in prompts]
        seconds, made = [], []
        for _ in range(rounds):
            began = time.perf_counter()
            outputs = self._llm.generate(asked, sampling, use_tqdm=False)
            seconds.append(time.perf_counter() - began)
            made = [output.outputs[0] for output in outputs]
        return {
            "tokens": [list(one.token_ids) for one in made], "cached": [one.num_cached_tokens for one in outputs],
            "logprobs": [
                [float(step[token].logprob) for step, token in zip(one.logprobs or [], one.token_ids, strict=False)]
                for one in made
            ],
            "reasons": [one.finish_reason for one in made], "seconds": seconds,
        }  # fmt: skip

    def counts(self) -> dict[str, Any]:
        """What it has counted of the pool."""
        values = {metric.name: getattr(metric, "value", None) for metric in self._llm.get_metrics()}
        return {name.partition("ringcast_pool_")[2]: value for name, value in values.items() if "ringcast_pool" in name}

    def forget(self) -> dict[str, Any]:
        """Its own prefixes, once no store holds blocks any more."""
        until = time.monotonic() + _FORGET_S
        while not (forgotten := self._llm.reset_prefix_cache()) and time.monotonic() < until:
            time.sleep(0.1)  # nothing tells
        return {"forgotten": forgotten}

    def until_it_fails(self) -> dict[str, Any]:
        """Goes on for long: the error that ends it, and when."""
        try:
            self._generate(LONG)
        except BaseException as error:
            return {"error": type(error).__name__, "at": time.time()}
        return {"error": None, "at": time.time()}


def main() -> None:
    """Serve until the input ends or says stop."""
    answers = os.fdopen(int(sys.argv[1]), "w", buffering=1)
    began = time.monotonic()
    engine = Engine(Path(sys.argv[2]), json.loads(sys.argv[3]))
    print(json.dumps({"up_s": time.monotonic() - began}), file=answers)
    for line in sys.stdin:
        command, *arguments = json.loads(line)
        if command == "stop":
            break
        print(json.dumps(getattr(engine, command)(*arguments)), file=answers)


if __name__ == "__main__":
    main()
