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

Messages read "subject: fact, remedy", with the values, in one line that no terminal acts on: part
of them is what strangers wrote. What a library raises about their bytes becomes one of these where
it is called, see `foreign_errors`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

LONGEST = 4000  # characters of a message
# Controls and escapes, lone surrogates, and marks that turn the direction of a line.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)


def printable(text: str, kept: str = "\t\n") -> str:
    """A text that a terminal shows and does not act on, but for the characters that are kept."""
    return _UNPRINTABLE.sub(
        lambda match: match[0] if match[0] in kept else match[0].encode("unicode_escape").decode(),
        text,
    )


def one_line(text: str) -> str:
    """The same as one line, and not a long one."""
    if _UNPRINTABLE.search(text):
        text = printable(re.sub(r"\s*[\r\n]\s*", " ", text.strip()), kept="")
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 4]} ..."


class Seq2EdgeError(Exception):
    """Root of every error that input, files or the machine can cause."""

    def __str__(self) -> str:
        return one_line(super().__str__())


@contextmanager
def foreign_errors(
    kind: type[Seq2EdgeError], subject: object, *passing: type[Exception]
) -> Iterator[None]:
    """Whatever a library raises about foreign bytes becomes an error of that kind about `subject`.

    That is also a panic of one that is written in Rust, which no `except Exception` catches. Errors
    of ours, those that are to be `passing`, and what stops a program, pass.
    """
    try:
        yield
    except Seq2EdgeError:
        raise
    except BaseException as error:
        panicked = type(error).__name__ == "PanicException"
        if isinstance(error, passing) or not (panicked or isinstance(error, Exception)):
            raise
        raise kind(f"{subject}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """What it says; of errors that say less than their name means, that too."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, MemoryError):
        return f"out of memory {error}".strip()
    if isinstance(error, (LookupError, TypeError, AttributeError)) or not str(error):
        return f"{type(error).__name__}: {error}".removesuffix(": ")
    return str(error)


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
