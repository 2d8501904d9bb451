"""Many clients of a running server: whether every answer is the library's, and how fast they come.

Questions of all tasks that the bundles have are answered by the library first. Then clients ask a
server on this machine, each one question after the other, drawn at random; a 503 is counted apart,
and asked again later. Prints requests, latency, tokens per second and time to the first token by
route, and the server's memory by quarter; exits with 1 where an answer was another one, a request
failed, or memory grew by more than 5 % from the second quarter to the last.

With `--compare` the texts of the first bundle are asked for by one client, one after the other, and
by all clients at once, in interleaved rounds: how many times as many tokens a second batches give.
With `--peer URL` too, another server of OpenAI's completions, llama-server say, is asked the same
in the same rounds, and the tokens are those that each server counts.

    seq2edge serve translator sentiment --port 8000
    python benchmarks/serve_load.py http://127.0.0.1:8000 translator sentiment --clients 64 \
        --seconds 600 --pid PID
    python benchmarks/serve_load.py http://127.0.0.1:8000 translator --clients 8 --compare
    python benchmarks/serve_load.py http://127.0.0.1:8000 smol --clients 8 --compare \
        --peer http://127.0.0.1:8080 --tokens 64
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import math
import os
import random
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx

import seq2edge
from seq2edge.runtime.model import Model

ROOT = Path(__file__).resolve().parent.parent
RECORDING = ROOT / "examples" / "librivox.wav"
TEXTS = 40
GROWTH = 1.05
CLOSE = 1e-4  # of scores: what is computed beside others differs in the last digits
PATIENCE = 120.0  # seconds for an answer

Asked, Answered = TypeVar("Asked"), TypeVar("Answered")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of a route, and what the library answers.

    `answer` takes out of a response, or of the pieces of a stream, what is compared.
    """

    route: str
    body: dict[str, Any]
    wanted: Any
    answer: Callable[[Any], Any]
    tokens: int = 0
    file: Path | None = None

    @property
    def streams(self) -> bool:
        """Whether the answer comes in pieces."""
        return bool(self.body.get("stream"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """How one request ended, after how many seconds, the first token included."""

    route: str
    outcome: str
    seconds: float
    first: float | None = None
    tokens: int = 0


def questions(name: str, model: Model, texts: Sequence[str], new: int) -> Iterator[Question]:
    """Those of a bundle that is served by this name; `new` tokens an answer at most."""
    task = model.bundle.manifest.task
    if task == "generate":
        yield from generations(name, model, texts, new)
    elif task == "transcribe":
        wanted = seq2edge.Transcriber(model).transcribe(RECORDING)
        yield Question(
            route="/v1/audio/transcriptions",
            body={"model": name},
            file=RECORDING,
            wanted=wanted.text,
            answer=lambda values: values["text"],
            tokens=sum(len(segment.ids) for segment in wanted.segments),
        )
    else:
        yield from understandings(name, model, task, texts)


def generations(name: str, model: Model, texts: Sequence[str], new: int) -> Iterator[Question]:
    """Each text as a completion, whole or in pieces, and of an encoder-decoder as a translation."""
    limits = {"num_beams": 1, "do_sample": False, "max_new_tokens": new}
    options = model.options.replace(**limits, max_length=None)
    for number, (text, (wanted, *_)) in enumerate(
        zip(texts, model.generate(texts, options), strict=True)
    ):
        common = {"wanted": wanted.text, "tokens": len(wanted.ids)}
        body = {"model": name, **limits}
        if number % 3 == 0 and model.dims.kind == "encoder-decoder":
            yield Question(
                route="/v1/translate",
                body={**body, "text": text},
                answer=lambda values: values["translations"][0]["text"],
                **common,
            )
            continue
        yield Question(
            route="/v1/completions",
            body={**body, "prompt": text, "stream": number % 3 == 1},
            answer=lambda values: values["choices"][0]["text"],
            **common,
        )


def understandings(name: str, model: Model, task: str, texts: Sequence[str]) -> Iterator[Question]:
    """What encoder-only models are asked."""
    for i, text in enumerate(texts):
        some = [texts[(i + more) % len(texts)] for more in range(4)]
        if task == "embed":
            yield Question(
                route="/v1/embeddings",
                body={"model": name, "input": some, "encoding_format": "float"},
                wanted=model.embed(some).tolist(),
                answer=lambda values: [each["embedding"] for each in values["data"]],
            )
        elif task == "classify" and len(model.bundle.manifest.labels) == 1:
            ranked = model.rerank(text, some)
            yield Question(
                route="/v1/rerank",
                body={"model": name, "query": text, "documents": some},
                wanted=[each.score for each in ranked],
                answer=lambda values: [each["relevance_score"] for each in values["results"]],
            )
        elif task == "classify":
            yield Question(
                route="/v1/classify",
                body={"model": name, "input": some},
                wanted=[each.scores for each in model.classify(some)],
                answer=lambda values: [each["scores"] for each in values["results"]],
            )
        elif task == "tag":
            yield Question(
                route="/v1/tag",
                body={"model": name, "input": some},
                wanted=[list(map(dataclasses.asdict, each)) for each in model.tag(some)],
                answer=lambda values: values["results"],
            )
        elif task == "answer":
            context = " ".join(some)
            yield Question(
                route="/v1/answer",
                body={"model": name, "question": text, "context": context},
                wanted=[dataclasses.asdict(each) for each in model.answer(text, context)],
                answer=lambda values: values["answers"],
            )


def same(answer: Any, wanted: Any) -> bool:
    """Whether two values are equal, numbers nearly so."""
    if isinstance(wanted, dict):
        return answer.keys() == wanted.keys() and all(same(answer[k], wanted[k]) for k in wanted)
    if isinstance(wanted, (list, tuple)):
        return len(answer) == len(wanted) and all(map(same, answer, wanted))
    if isinstance(wanted, float):
        return math.isclose(answer, wanted, rel_tol=CLOSE, abs_tol=CLOSE)
    return bool(answer == wanted)


async def ask(client: httpx.AsyncClient, question: Question) -> Result:
    """The result of one request."""
    begin = time.perf_counter()
    first: float | None = None
    pieces: list[str] = []
    try:
        if question.streams:
            async with client.stream("POST", question.route, json=question.body) as response:
                async for line in response.aiter_lines():
                    if line.startswith("data: {") and (piece := piece_of(line)):
                        first = first or time.perf_counter() - begin
                        pieces.append(piece)
        elif question.file is not None:
            files = {"file": (question.file.name, question.file.read_bytes())}
            response = await client.post(question.route, data=question.body, files=files)
        else:
            response = await client.post(question.route, json=question.body)
    except httpx.HTTPError as error:
        outcome = f"failed: {type(error).__name__}"
    else:
        if response.status_code == 503:
            outcome = "busy"
            await asyncio.sleep(float(response.headers["Retry-After"]))
        elif response.status_code != 200:
            outcome = f"failed: status {response.status_code}"
        else:
            answer = "".join(pieces) if question.streams else question.answer(response.json())
            outcome = "right" if same(answer, question.wanted) else "wrong"
    return Result(
        route=f"{question.route} {'stream' if question.streams else ''}".strip(),
        outcome=outcome,
        seconds=time.perf_counter() - begin,
        first=first,
        tokens=question.tokens if outcome == "right" else 0,
    )


def piece_of(line: str) -> str:
    """The text of an event of a completion."""
    choices = json.loads(line.removeprefix("data: ")).get("choices")
    return choices[0]["text"] if choices else ""


async def load(
    url: str, asked: Sequence[Question], clients: int, seconds: float, pid: int | None
) -> tuple[list[Result], list[float]]:
    """All results of so many clients, and MB of the server's memory, a number a second."""
    results: list[Result] = []
    memory: list[float] = []
    ends = time.monotonic() + seconds

    async def one(number: int, client: httpx.AsyncClient) -> None:
        rng = random.Random(number)
        while time.monotonic() < ends:
            results.append(await ask(client, rng.choice(asked)))

    async def watch(pid: int) -> None:
        while True:
            memory.append(resident(pid))
            await asyncio.sleep(1)

    async with httpx.AsyncClient(
        base_url=url, timeout=PATIENCE, limits=httpx.Limits(max_connections=clients)
    ) as client:
        watching = asyncio.create_task(watch(pid)) if pid is not None else None
        await asyncio.gather(*(one(number, client) for number in range(clients)))
        if watching is not None:
            watching.cancel()
    return results, memory


def resident(pid: int) -> float:
    """MB of a process in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


async def by_clients(
    url: str,
    clients: int,
    asked: Sequence[Asked],
    answer: Callable[[httpx.AsyncClient, Asked], Awaitable[Answered]],
) -> tuple[list[Answered], float]:
    """What so many clients who share what is asked were answered, and after how many seconds."""
    waiting, answers = list(asked), list[Answered]()
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE) as client:

        async def one() -> None:
            while waiting:
                answers.append(await answer(client, waiting.pop()))

        begin = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(clients)))
        return answers, time.perf_counter() - begin


async def rate(url: str, asked: Sequence[Question], clients: int) -> tuple[float, Counter[str]]:
    """Tokens per second of so many clients who share the questions, and how requests ended."""
    results, seconds = await by_clients(url, clients, asked, ask)
    tokens = sum(result.tokens for result in results)
    return tokens / seconds, Counter(result.outcome for result in results)


def compare(url: str, asked: Sequence[Question], clients: int, rounds: int) -> bool:
    """Print how many times as many tokens a second all clients get; whether all went well."""
    ratios, outcomes = [], Counter[str]()
    for _ in range(rounds):
        alone, of_alone = asyncio.run(rate(url, asked, 1))
        together, of_together = asyncio.run(rate(url, asked, clients))
        ratios.append(together / alone)
        outcomes += of_alone + of_together
        print(
            f"1 client {alone:8.1f} tokens/s, {clients} clients {together:8.1f} tokens/s, "
            f"{ratios[-1]:.2f} times as many",
            flush=True,
        )
    print(f"median {statistics.median(ratios):.2f}; " + told(outcomes))
    return outcomes.keys() == {"right"}


async def counted(
    url: str, name: str, texts: Sequence[str], clients: int, new: int
) -> tuple[int, float]:
    """Tokens of the texts' completions, as the server counts them, and after how many seconds."""

    async def complete(client: httpx.AsyncClient, text: str) -> int:
        body = {"model": name, "prompt": text, "max_tokens": new, "temperature": 0}
        response = await client.post("/v1/completions", json=body)
        response.raise_for_status()
        tokens: int = response.json()["usage"]["completion_tokens"]
        return tokens

    tokens, seconds = await by_clients(url, clients, texts, complete)
    return sum(tokens), seconds


def beside(
    servers: dict[str, str], name: str, texts: Sequence[str], clients: int, rounds: int, new: int
) -> None:
    """Print tokens per second of servers by their names, of one client and of all, in turn."""
    rates: dict[tuple[str, int], list[float]] = defaultdict(list)
    for number in range(rounds + 1):  # the first one warms up
        for each, url in servers.items():
            for count in (1, clients):
                # No server has read these before.
                asked = [f"{number}.{count}: {text}" for text in texts]
                tokens, seconds = asyncio.run(counted(url, name, asked, count, new))
                if number:
                    rates[each, count].append(tokens / seconds)
    first = next(iter(servers))
    for (each, count), values in rates.items():
        ratios = [a / b for a, b in zip(rates[first, count], values, strict=True)]
        print(
            f"{each:<10}{count:3} clients {statistics.median(values):8.1f} tokens/s "
            f"({min(values):.1f} to {max(values):.1f}), "
            f"{first} is {statistics.median(ratios):.2f} times as fast"
        )


def told(outcomes: Counter[str]) -> str:
    """How many requests ended how."""
    return ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(outcomes.items()))


def percentiles(values: Sequence[float]) -> str:
    """Of seconds: the median and the 99th percentile in ms."""
    if len(values) < 2:
        return "".join(f"{1000 * value:8.1f}" for value in values)
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return f"{1000 * cuts[49]:8.1f}{1000 * cuts[98]:9.1f}"


def report(results: Sequence[Result], seconds: float) -> None:
    """A line a route."""
    by_route: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        by_route[result.route].append(result)
    print(f"{'ms':<28}{'requests':>9}{'p50':>8}{'p99':>9}  first token p50, p99")
    for route, some in sorted(by_route.items()):
        right = [result.seconds for result in some if result.outcome == "right"]
        first = [result.first for result in some if result.first is not None]
        print(f"{route:<28}{len(some):>9,}{percentiles(right)}  {percentiles(first)}")
    tokens = sum(result.tokens for result in results)
    print(
        f"{told(Counter(result.outcome for result in results))}; "
        f"{len(results) / seconds:.1f} requests/s, {tokens / seconds:.1f} tokens/s"
    )


def flat(memory: Sequence[float]) -> bool:
    """Print a server's memory by quarter; whether it did not grow."""
    size = max(1, len(memory) // 4)
    parts = [memory[start : start + size] for start in (0, size, 2 * size, 3 * size)]
    quarters = [statistics.median(part) for part in parts if part]
    print("MB by quarter: " + ", ".join(f"{quarter:.1f}" for quarter in quarters))
    return len(quarters) < 4 or quarters[3] <= GROWTH * quarters[1]


def main() -> None:
    """Ask, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=RAW)
    parser.add_argument("url")
    parser.add_argument("bundles", nargs="+", type=Path, help="served by their folders' names")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--pid", type=int, help="of the server, to watch its memory")
    parser.add_argument("--tokens", type=int, default=24, help="of an answer at most")
    parser.add_argument("--texts", type=Path, default=ROOT / "README.md", help="a text a line")
    parser.add_argument("--compare", action="store_true", help="with one client, and in batches")
    parser.add_argument("--peer", help="with --compare: another server's address")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    lines = (line.strip() for line in arguments.texts.read_text(encoding="utf-8").splitlines())
    texts = [line for line in lines if line][:TEXTS]
    if arguments.compare and arguments.peer:
        servers = {"seq2edge": arguments.url, "peer": arguments.peer}
        name = arguments.bundles[0].name
        beside(servers, name, texts, arguments.clients, arguments.rounds, arguments.tokens)
        return
    asked: list[Question] = []
    for folder in arguments.bundles[: 1 if arguments.compare else None]:
        model = seq2edge.load(folder, device="cpu")
        asked += questions(folder.name, model, texts, arguments.tokens)
    if arguments.compare:
        sys.exit(not compare(arguments.url, asked, arguments.clients, arguments.rounds))
    _, once = asyncio.run(rate(arguments.url, asked, arguments.clients))  # models are loaded here
    print(
        f"{len(asked)} questions, {arguments.clients} clients; once each: {told(once)}", flush=True
    )
    results, memory = asyncio.run(
        load(arguments.url, asked, arguments.clients, arguments.seconds, arguments.pid)
    )
    report(results, arguments.seconds)
    kept = flat(memory) if memory else True
    outcomes = {result.outcome for result in results} | once.keys()
    sys.exit(not kept or not outcomes <= {"right", "busy"})


RAW = argparse.RawDescriptionHelpFormatter

if __name__ == "__main__":
    main()
