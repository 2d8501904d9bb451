"""Every error a user can cause, in one tree.

    Seq2EdgeError
    ├── CheckpointError             a checkpoint cannot be read, or holds what is not supported
    │   └── UnsupportedError        a family, a config feature or an option that is refused by name
    ├── BundleError                 a bundle is damaged, hostile or of another format
    ├── ExportError                 the graphs could not be made, or failed the parity gate
    │   └── EngineError             TensorRT makes no engine of a graph, or one is damaged or wrong
    │       └── ForeignEngineError  an engine does not open on this device
    ├── BackendError                a backend or one of its libraries is missing or does not work
    │   └── CapacityError           a sequence does not fit the cache or the model's positions
    ├── OptionError                 options that contradict each other or that a path cannot honour
    ├── ServiceError                a service was closed, or has as many requests as it takes
    ├── TrainingError               a recipe, its data or the run's folder cannot be used
    └── InputError                  text, audio, images or ids that cannot be used

Messages read "subject: fact, remedy", with the values.
"""

from __future__ import annotations


class Seq2EdgeError(Exception):
    """Root of every error that input, files or the machine can cause."""


class CheckpointError(Seq2EdgeError):
    """A checkpoint cannot be read as it is."""


class UnsupportedError(CheckpointError):
    """A model family or one of its settings is known not to be supported."""


class BundleError(Seq2EdgeError):
    """A bundle is damaged, hostile, incomplete or of another format."""


class ExportError(Seq2EdgeError):
    """Graphs could not be made, or differ from the model they were made from."""


class EngineError(ExportError):
    """TensorRT makes no engine of a graph, or an engine is damaged, wrong or for another device."""


class ForeignEngineError(EngineError):
    """An engine is whole and of this release, but does not open on this device."""


class BackendError(Seq2EdgeError):
    """A backend, or a library or device that it needs, is not usable here."""


class CapacityError(BackendError):
    """A sequence is longer than the cache or the model's positions allow."""


class OptionError(Seq2EdgeError):
    """An option is unknown, out of range, or cannot be honoured here."""


class ServiceError(Seq2EdgeError):
    """A service was closed before a request was done, or has as many requests as it takes."""


class TrainingError(Seq2EdgeError):
    """A recipe is contradictory, training data is broken, or a run cannot go on."""


class InputError(Seq2EdgeError):
    """Text, audio, images or token ids that the model cannot take."""
