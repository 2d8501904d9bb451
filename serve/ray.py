"""The same on a Ray cluster: shards of a batch by Ray Data, and requests by Ray Serve.

Every machine needs seq2edge and sees the bundle and the files under the same paths. Ray's usage
statistics are off in clusters that are started from here; one that runs already has its setting.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from seq2edge.errors import BackendError, Seq2EdgeError
from seq2edge.serve.batch import Compute, Shard, ShardRunner
from seq2edge.serve.predictor import ERROR, Predictor, Row, refuse_files


def on_ray(workers: int) -> Compute:
    """Shards in so many actors of the cluster of RAY_ADDRESS, or of a new one of this machine.

    An actor that is killed is started again, and its shard computed once more.
    """

    def compute(runner: ShardRunner, shards: Sequence[Shard]) -> Iterator[int]:
        if not shards:
            return
        ray = _ray()
        ray.init(ignore_reinit_error=True)
        ray.data.DataContext.get_current().enable_progress_bars = False
        rows = list(map(dataclasses.asdict, shards))
        done = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            _ShardActor,
            fn_constructor_args=(runner,),
            compute=ray.data.ActorPoolStrategy(size=workers),
            **_needs(runner.predictor),
        )
        try:
            for row in done.iter_rows():
                if row["failure"]:
                    raise Seq2EdgeError(row["failure"])
                yield row["number"]
        except ray.exceptions.RayError as error:
            raise BackendError(f"ray: {error}") from error

    return compute


class _ShardActor:
    """A process of the cluster, with its model."""

    def __init__(self, runner: ShardRunner) -> None:
        self._runner = runner

    def __call__(self, row: dict[str, int]) -> Row:
        shard = Shard(**row)
        try:
            return {"number": self._runner(shard), "failure": ""}
        except Seq2EdgeError as error:  # which Ray would bury in the text of one of its own
            return {"number": shard.number, "failure": str(error)}


def application(settings: Mapping[str, Any]) -> Any:
    """A Ray Serve application: `POST` a row as JSON, its answer comes back.

        serve run seq2edge.serve.ray:application bundle=translator task=generate replicas=2

    `settings` are the fields of `Predictor`, and `replicas`. Rows that come together are answered
    in batches of `batch`; a row that cannot be answered has status 400. Raises OptionError for
    what cannot be, also for recordings: a row names a file, and whose they are no server knows.
    """
    _ray()
    from ray import serve
    from starlette.requests import Request
    from starlette.responses import JSONResponse

    values = dict(settings)
    replicas = int(values.pop("replicas", 1))
    bundle = str(Path(values.pop("bundle", "")).absolute())
    predictor = Predictor(**{**values, "bundle": bundle, "batch": int(values.pop("batch", 8))})
    refuse_files(predictor)

    class Replica:
        def __init__(self) -> None:
            predictor([])  # ready when the model is there

        @serve.batch(max_batch_size=predictor.batch, batch_wait_timeout_s=0.005)  # type: ignore[untyped-decorator]
        async def answer(self, rows: list[bytes]) -> list[Row]:
            return await asyncio.to_thread(predictor, rows)

        async def __call__(self, request: Request) -> JSONResponse:
            answer = await self.answer(await request.body())
            return JSONResponse(answer, status_code=400 if ERROR in answer else 200)

    deployment: Any = serve.deployment(
        num_replicas=replicas,
        ray_actor_options=_needs(predictor),
        max_ongoing_requests=2 * predictor.batch,  # a batch runs while the next one gathers
    )(Replica)
    return deployment.bind()


def _ray() -> Any:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read when Ray starts
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise BackendError(f"ray: not usable here ({error}); install seq2edge[ray]") from error
    return ray


def _needs(predictor: Predictor) -> dict[str, float]:
    """What a process takes of a machine."""
    return {
        "num_cpus": predictor.load.get("threads") or 1,
        "num_gpus": float(predictor.load.get("device") in ("cuda", "tensorrt")),
    }
