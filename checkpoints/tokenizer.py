"""A checkpoint's tokenizer as one `tokenizer.json`, and a record of what else the runtime needs.

transformers reads the checkpoint. What it runs on the `tokenizers` library already is taken as it
stands; Marian and M2M100, which it runs in Python, are rebuilt on that library and compared with
the original on text of many scripts before they are accepted.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from tokenizers import Regex, Tokenizer, decoders

from seq2edge.bundle.manifest import SpecialTokens, TokenizerRecord
from seq2edge.checkpoints.importers.json_file import LARGEST, LARGEST_JSON
from seq2edge.checkpoints.reading import reads_checkpoint
from seq2edge.errors import CheckpointError, UnsupportedError, foreign_errors
from seq2edge.files.records import decode, record_errors
from seq2edge.files.storage import file_errors, read_regular
from seq2edge.files.workspace import temporary_folder
from seq2edge.runtime.tokenizer_file import TokenizerFile

SOURCE, TARGET, TEMPLATE = "tokenizer.json", "tokenizer.target.json", "chat_template.jinja"
VOCABULARIES = (
    "tokenizer.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "source.spm",
    "vocab.txt",
    "vocab.json",
)
COMPANIONS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "target.spm",
    "target_vocab.json",
    "normalizer.json",
    "chat_template.jinja",
)
OPTIONAL = {"tokenizer_file", "normalizer_file", "tokenizer_config_file", "target_vocab_file"}
CONFIG_KEYS = ("model_type", "tokenizer_class", "transformers_version")

# By class of the transformers tokenizer, the nearest base first.
CONVERTERS = {
    "MarianTokenizer": "seq2edge.checkpoints.remapped_sentencepiece:convert_marian",
    "M2M100Tokenizer": "seq2edge.checkpoints.remapped_sentencepiece:convert_m2m100",
    "TokenizersBackend": "seq2edge.checkpoints.tokenizer:convert_fast",
}
NO_LIMIT = 10**9  # what transformers writes where a tokenizer sets none is far larger
WITHOUT_FILES = ("ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer")

Original: TypeAlias = Any  # a transformers tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Converted:
    """Files to write beside the manifest, the record that names them, and remarks for the user."""

    files: Mapping[str, bytes]
    record: TokenizerRecord
    notes: tuple[str, ...] = ()
    longest: int | None = None  # tokens that it lets a model read, if it says so


@reads_checkpoint
def convert_tokenizer(
    folder: Path,
    *,
    config: Mapping[str, Any],
    vocab: int,
    source_vocab: int = 0,
    files: Mapping[str, bytes] | None = None,
    pieces: Mapping[str, Path] | None = None,
    fills: bool = False,
) -> Converted | None:
    """The tokenizer of a checkpoint folder, None where it has no tokenizer files.

    `config` is the checkpoint's config.json, `vocab` and `source_vocab` are the rows of the
    decoder's and the encoder's embeddings (0: the same). `files` takes the place of the files in
    the folder, which then only names the checkpoint in errors; so do `pieces`, SentencePiece models
    of Marian's for `source` and `target`. `fills`: the record names the mask.
    Raises CheckpointError for damaged files and for ids without an embedding, UnsupportedError for
    kinds of tokenizers that have no conversion.
    """
    if "tokenizer" in config:
        return _native(folder, config["tokenizer"], vocab=vocab, source_vocab=source_vocab or vocab)
    if pieces is not None:
        from seq2edge.checkpoints.plain_sentencepiece import convert_plain

        return convert_plain(pieces, (source_vocab or vocab, vocab))
    stored = _stored(folder) if files is None else dict(files)
    if not stored or set(stored) == {TEMPLATE}:
        return None
    for name, data in stored.items():
        _check_file(folder / name, data)
    _check_vocabulary(folder, stored)
    with temporary_folder() as copy:
        for name, data in stored.items():
            (copy / name).write_bytes(data)
        minimal = {key: config[key] for key in CONFIG_KEYS if config.get(key) is not None}
        (copy / "config.json").write_text(json.dumps(minimal), encoding="utf-8")
        original = _load(copy, folder)
        _check_companions(original, folder, stored)
        converted = _convert(original, copy, folder)
    record = dataclasses.replace(converted.record, prompts=_prompts(config))
    if fills and original.mask_token is not None:
        special = dataclasses.replace(record.special, mask=str(original.mask_token))
        record = dataclasses.replace(record, special=special)
    _check_ids(converted, original, folder, vocab=vocab, source_vocab=source_vocab or vocab)
    longest = original.model_max_length if original.model_max_length < NO_LIMIT else None
    converted = dataclasses.replace(converted, record=record, longest=longest)
    return _with_template(converted, original)


def _native(folder: Path, values: object, *, vocab: int, source_vocab: int) -> Converted:
    """The files and the record that training wrote."""
    with record_errors(folder, CheckpointError):
        record: TokenizerRecord = decode(TokenizerRecord, values, "tokenizer")
    files = {}
    for name in (record.source, *([record.target] if record.target else [])):
        with file_errors(folder / name, CheckpointError):
            files[name] = read_regular(folder / name, LARGEST, CheckpointError)
    rows = {record.source: source_vocab, record.target or record.source: vocab}
    for name, data in files.items():
        size = _parse(data, folder / name).get_vocab_size(with_added_tokens=True)
        if size > rows[name]:
            raise CheckpointError(
                f"{folder / name}: {size} tokens, the embedding has {rows[name]} rows"
            )
    return Converted(files=files, record=record)


def _stored(folder: Path) -> dict[str, bytes]:
    files = {}
    for name in (*VOCABULARIES, *COMPANIONS):
        path = folder / name
        try:
            if path.is_file():
                plain = path.suffix == ".json" and name != SOURCE
                files[name] = read_regular(
                    path, LARGEST_JSON if plain else LARGEST, CheckpointError
                )
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error}") from error
    return files


def _check_file(path: Path, data: bytes) -> None:
    """Refuse a file that is damaged in itself, so that the error can name it."""
    try:
        if path.suffix == ".json" and path.name != SOURCE:
            json.loads(data)
        elif path.suffix in (".txt", ".jinja"):
            data.decode("utf-8")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged: {error}") from error
    if not data.strip():
        raise CheckpointError(f"{path}: empty")
    if path.name == SOURCE:
        _parse(data, path)


def _parse(data: bytes, path: Path) -> Tokenizer:
    return TokenizerFile(data, str(path), CheckpointError).library


def _check_vocabulary(folder: Path, stored: Mapping[str, bytes]) -> None:
    if set(stored) & set(VOCABULARIES):
        return
    settings = json.loads(stored.get("tokenizer_config.json", b"{}"))
    name = settings.get("tokenizer_class") if isinstance(settings, dict) else None
    if name in WITHOUT_FILES:
        raise UnsupportedError(f"{folder}: {name} has no conversion to a tokenizer.json")
    raise CheckpointError(
        f"{folder}: {', '.join(stored)} but no vocabulary, copy one of {', '.join(VOCABULARIES)}"
    )


def _load(copy: Path, folder: Path) -> Original:
    """The tokenizer as transformers reads it, its errors ours."""
    import transformers

    try:
        with (
            foreign_errors(CheckpointError, f"{folder}: transformers cannot read the tokenizer"),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            return transformers.AutoTokenizer.from_pretrained(
                str(copy), local_files_only=True, trust_remote_code=False
            )
    except CheckpointError as error:
        raise CheckpointError(str(error).replace(str(copy), str(folder))) from error.__cause__


def _check_companions(original: Original, folder: Path, stored: Mapping[str, bytes]) -> None:
    """The library makes up what is missing, so check that nothing is."""
    names: Mapping[str, str] = type(original).vocab_files_names
    if SOURCE in stored and "tokenizer_file" in names:
        return
    for key, name in names.items():
        if key not in OPTIONAL and name not in stored and not _another_name(original, stored):
            kind = type(original).__name__
            raise CheckpointError(f"{folder}: no {name}, which a {kind} needs")


def _another_name(original: Original, stored: Mapping[str, bytes]) -> bool:
    """A SentencePiece file under another name than the class's own still counts."""
    path = getattr(original, "vocab_file", None)
    return SOURCE in stored or (path is not None and Path(path).name in stored)


def _convert(original: Original, copy: Path, folder: Path) -> Converted:
    """By the converter of the nearest class that has one."""
    if original.split_special_tokens:
        raise UnsupportedError(f"{folder}: split_special_tokens is not supported")
    for kind in type(original).__mro__:
        if location := CONVERTERS.get(kind.__name__):
            module, function = location.split(":")
            converted = getattr(importlib.import_module(module), function)(original, copy, folder)
            assert isinstance(converted, Converted)
            return converted
    raise UnsupportedError(
        f"{folder}: {type(original).__name__} has no conversion to a tokenizer.json, known are "
        f" {', '.join(CONVERTERS)} (TokenizersBackend: all that run on the tokenizers library)"
    )


def convert_fast(original: Original, _: Path, folder: Path) -> Converted:
    """What already runs on the `tokenizers` library, as it stands."""
    tokenizer = Tokenizer.from_str(original.backend_tokenizer.to_str())
    if type(original).__name__ == "WhisperTokenizer":  # its own decode takes timestamps out
        stamps = decoders.Replace(Regex(r"<\|\d+\.\d+\|>"), "")
        tokenizer.decoder = decoders.Sequence([tokenizer.decoder, stamps])
    bpe = type(original.backend_tokenizer.model).__name__ == "BPE"
    forced = original.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output
    return Converted(
        files={SOURCE: to_bytes(tokenizer)},
        record=TokenizerRecord(
            source=SOURCE,
            special=special_tokens(original),
            clean_up=bool(original.clean_up_tokenization_spaces and (forced or not bpe)),
            **_fast_languages(original, folder),
        ),
    )


def _fast_languages(original: Original, folder: Path) -> dict[str, Any]:
    """What mBART, mBART-50 and NLLB say about languages."""
    source = getattr(original, "src_lang", None)
    if not source or not hasattr(original, "prefix_tokens"):
        return {}
    module = importlib.import_module(type(original).__module__)
    codes = dict.fromkeys([*getattr(module, "FAIRSEQ_LANGUAGE_CODES", ()), source])
    ids = {code: original.convert_tokens_to_ids(code) for code in codes}
    special = set(original.all_special_ids) - {original.unk_token_id}
    languages = {code: i for code, i in ids.items() if i in special}
    if source not in languages:
        raise CheckpointError(
            f"{folder}: no token for the language {source!r}, the folder needs its tokenizer.json "
            "or the language codes as extra_special_tokens in tokenizer_config.json"
        )
    start = type(original).__name__ == "MBartTokenizer"
    return {
        "languages": languages,
        "language_layout": "prefix" if languages[source] in original.prefix_tokens else "suffix",
        "target_layout": "start" if start else "forced",
        "source_language": source,
        "target_language": original.tgt_lang or "",
    }


def special_tokens(original: Original) -> SpecialTokens:
    """The special tokens that the runtime may ask for."""
    named = {
        name: getattr(original, f"{name}_token", None) for name in ("bos", "eos", "pad", "unk")
    }
    return SpecialTokens(**{name: None if t is None else str(t) for name, t in named.items()})


def to_bytes(tokenizer: Tokenizer) -> bytes:
    """A tokenizer.json that neither cuts nor pads."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return str(tokenizer.to_str(pretty=False)).encode()


def _check_ids(
    converted: Converted, original: Original, folder: Path, *, vocab: int, source_vocab: int
) -> None:
    """Every id needs an embedding; only special tokens that text never needs may lack one."""
    needed = {token for token in dataclasses.astuple(converted.record.special) if token}
    spare = set(original.all_special_tokens) - needed - set(converted.record.languages)
    for name, limit in ((SOURCE, source_vocab), (TARGET, vocab)):
        if name not in converted.files:
            continue
        tokenizer = _parse(converted.files[name], folder / name)
        end = converted.record.unknown_from if name == SOURCE else None
        pieces = tokenizer.get_vocab(with_added_tokens=True)
        beyond = {t for t, i in pieces.items() if i >= limit and (end is None or i < end)} - spare
        if name == TARGET:  # its own spare pieces are never decoded
            beyond &= set(original.target_encoder)
        if beyond:
            token = min(beyond, key=pieces.__getitem__)
            raise CheckpointError(
                f"{folder}: token {token!r} has the id {pieces[token]}, but the model has only "
                f"{limit} embeddings, the tokenizer belongs to another checkpoint"
            )


def _prompts(config: Mapping[str, Any]) -> dict[str, str]:
    """The texts that a T5 was trained to see before the input, by task."""
    tasks = config.get("task_specific_params")
    if not isinstance(tasks, Mapping):
        return {}
    prefixes = {
        str(task): values.get("prefix")
        for task, values in tasks.items()
        if isinstance(values, Mapping)
    }
    return {task: prefix for task, prefix in prefixes.items() if isinstance(prefix, str) and prefix}


def _with_template(converted: Converted, original: Original) -> Converted:
    """With the chat template, where there is one."""
    template = original.chat_template
    if template is None:
        return converted
    named = template if isinstance(template, Mapping) else {"default": template}
    others = ", ".join(name for name in named if name != "default")
    note = f"chat templates left out: {others}; only the default one is kept" if others else ""
    notes = (*converted.notes, note) if note else converted.notes
    if "default" not in named:
        return dataclasses.replace(converted, notes=notes)
    return dataclasses.replace(
        converted,
        files={**converted.files, TEMPLATE: named["default"].encode()},
        record=dataclasses.replace(converted.record, chat_template=TEMPLATE),
        notes=notes,
    )
