"""A model repository for Triton's python backend: rows as JSON in, answers as JSON out.

    REPOSITORY/NAME/config.pbtxt
    REPOSITORY/NAME/1/model.py      a line: what it runs is `TritonModel`
    REPOSITORY/NAME/1/bundle/

Triton's own Python needs seq2edge and a backend of it; the stub heeds neither a virtual environment
nor PYTHONPATH. Triton gathers requests into batches.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any, Final

from seq2edge.bundle import Bundle
from seq2edge.errors import InputError
from seq2edge.files.storage import file_errors, replacing_folder
from seq2edge.serve.predictor import Predictor, as_line, refuse_files

ROW: Final = "row"
ANSWER: Final = "answer"
SETTINGS: Final = "predictor"
BUNDLE: Final = "bundle"
MODEL: Final = "from seq2edge.serve.triton import TritonModel as TritonPythonModel  # noqa: F401\n"
CONFIG: Final = """\
name: {name}
backend: "python"
max_batch_size: {batch}
input [ {{ name: "{row}" data_type: TYPE_STRING dims: [ 1 ] }} ]
output [ {{ name: "{answer}" data_type: TYPE_STRING dims: [ 1 ] }} ]
dynamic_batching {{ max_queue_delay_microseconds: {delay} }}
instance_group [ {{ kind: {kind} count: {instances} }} ]
parameters {{ key: "{key}" value: {{ string_value: {settings} }} }}
"""


def export_triton(
    predictor: Predictor,
    repository: Path,
    name: str,
    *,
    instances: int = 1,
    delay: int = 2000,
) -> Path:
    """Write the model `name` into a repository, in the place of one that is there; its folder.

    `instances` processes, each with a model, which wait `delay` microseconds for a batch of
    `predictor.batch` rows. Raises OptionError for recordings, whose rows name files.
    """
    refuse_files(predictor)
    if not name or Path(name).name != name:
        raise InputError(f"name: {name!r} is no name of a folder")
    bundle = Bundle.open(predictor.bundle)
    values = dataclasses.asdict(dataclasses.replace(predictor, bundle=BUNDLE))
    config = CONFIG.format(
        name=json.dumps(name),
        batch=predictor.batch,
        row=ROW,
        answer=ANSWER,
        delay=delay,
        kind="KIND_GPU" if predictor.load.get("device") in ("cuda", "tensorrt") else "KIND_CPU",
        instances=instances,
        key=SETTINGS,
        settings=json.dumps(json.dumps(values)),  # the escapes of a text in protobuf are JSON's
    )
    folder = repository / name
    with file_errors(folder, InputError), replacing_folder(folder) as new:
        (new / "config.pbtxt").write_text(config, encoding="utf-8")
        shutil.copytree(bundle.path, new / "1" / BUNDLE)
        (new / "1" / "model.py").write_text(MODEL, encoding="utf-8")
    return folder


class TritonModel:
    """What Triton's stub runs: loads the bundle beside it, answers a batch of requests at once."""

    def initialize(self, arguments: dict[str, str]) -> None:
        """Read the settings and load the bundle; an error keeps Triton from being ready."""
        config = json.loads(arguments["model_config"])
        values = json.loads(config["parameters"][SETTINGS]["string_value"])
        version = Path(arguments["model_repository"], arguments["model_version"])
        self._predictor = Predictor(**{**values, "bundle": str(version / values["bundle"])})
        self._predictor([])

    def execute(self, requests: list[Any]) -> list[Any]:
        """An answer for each row of each request, in its place; errors too are answers."""
        import numpy as np
        import triton_python_backend_utils as triton

        rows = [triton.get_input_tensor_by_name(request, ROW).as_numpy() for request in requests]
        answers = iter(self._predictor([row for part in rows for row in part.ravel().tolist()]))
        responses = []
        for part in rows:
            lines = [as_line(next(answers)) for _ in range(part.size)]
            values = np.array(lines, dtype=object).reshape(part.shape)
            tensor = triton.Tensor(ANSWER, values)
            responses.append(triton.InferenceResponse(output_tensors=[tensor]))
        return responses
