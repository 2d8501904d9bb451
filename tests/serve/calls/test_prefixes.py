"""What prompts begin with is computed once, kept in files, and read from no other."""

from __future__ import annotations

import errno
import os
import shutil

import numpy as np
import pytest
import serving

from seq2edge.errors import OptionError
from seq2edge.serve.calls.prefixes import Prefixes
from seq2edge.serve.calls.settings import Settings

SAID = " ".join(f"w{i}" for i in range(5, 30))  # 25 tokens
CHAT = "/v1/chat/completions"


@pytest.fixture
def writer(folders):
    """One model, which is enough here."""
    return {"writer": folders["writer"]}


def ask(served, text=SAID, **more):
    """What a prompt's completion says, and how much of the prompt was kept."""
    body = {"model": "writer", "prompt": text, "max_tokens": 4}
    answer = served.post("/v1/completions", body, **more).json()
    return answer["choices"][0]["text"], answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def files(folder):
    """All files that are kept."""
    return sorted(folder.glob("*/*.npz"))


def written(served, folder, count=1):
    """Wait until so many files are there."""
    prefixes = served.serving.prefixes
    serving.soon(lambda: len(files(folder)) == count == len(prefixes._sizes), "it is not written")


def test_what_prompts_have_in_common_is_computed_once(writer, tmp_path, models):
    """Also behind a restart; the text is that of the library, and the metrics count it."""
    writer_options = models["writer"].options.replace(max_new_tokens=4, max_length=None)
    kept = tmp_path / "kept"
    settings = Settings(cache_dir=kept)
    with serving.serve(writer, settings) as served:
        assert ask(served)[1] == 0
        written(served, kept)
        text, cached = ask(served, f"{SAID} w50 w51")
        assert cached == 25
        assert text == models["writer"].generate([f"{SAID} w50 w51"], writer_options)[0][0].text
    metrics = served.serving.metrics.text().decode().splitlines()
    (first, second) = files(kept)
    for line in (
        'seq2edge_prefixes_total{model="writer",result="hit"} 1.0',
        'seq2edge_prefixes_total{model="writer",result="miss"} 1.0',
        'seq2edge_tokens_total{kind="cached",model="writer"} 25.0',
    ):
        assert line in metrics
    size = first.stat().st_size + second.stat().st_size
    assert f"seq2edge_prefix_bytes {float(size)}" in metrics
    with serving.serve(writer, settings) as served:
        assert ask(served, f"{SAID} w50 w70")[1] == 26
        assert ask(served, "w90 " + SAID)[1] == 0
    assert first.stat().st_mode & 0o777 == second.stat().st_mode & 0o777 == 0o600
    assert first.parent.stat().st_mode & 0o777 == 0o700


def test_a_chat_goes_on_in_one_file(writer, tmp_path):
    """Also of a stream, from its answer on: each turn's file takes the place of the last one's."""
    messages = [{"role": "user", "content": SAID}]
    body = {"model": "writer", "messages": messages, "max_tokens": 4}
    with serving.serve(writer, Settings(cache_dir=tmp_path)) as served:
        usage = {"include_usage": True}
        create = served.openai().chat.completions.create
        first = list(create(**body, stream=True, stream_options=usage))
        assert first.pop().usage.prompt_tokens_details.cached_tokens == 0
        written(served, tmp_path)
        before = files(tmp_path)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in first)
        messages.append({"role": "assistant", "content": f"w7 {text}"})  # as the template has it
        messages.append({"role": "user", "content": "w40 w41"})
        assert create(**body).usage.prompt_tokens_details.cached_tokens == 29
        serving.soon(lambda: files(tmp_path) != before, "it is not written")
        written(served, tmp_path)


def test_keys_share_nothing(writer, tmp_path):
    """Nobody learns by how much is kept what others ask."""
    keys = tmp_path / "keys"
    keys.write_text(f"{'a' * 20}\n{'b' * 20}\n")
    with serving.serve(writer, Settings(cache_dir=tmp_path, keys=keys)) as served:
        mine, yours = ({"headers": {"Authorization": f"Bearer {key * 20}"}} for key in "ab")
        assert ask(served, **mine)[1] == 0
        written(served, tmp_path)
        assert ask(served, **yours)[1] == 0
        assert ask(served, **mine)[1] == 25


def damage(path):
    """A number of a layer is another one, and the archive whole."""
    arrays = dict(np.load(path))
    arrays["key_0"][0, 0, 0] += 1
    np.savez(path, **arrays)


def cut(path):
    """Its end is not there."""
    os.truncate(path, path.stat().st_size // 2)


def exchange(path):
    """It is a file of another bundle, under its name."""
    arrays = dict(np.load(path))
    arrays["bundle"] = np.array("another")
    np.savez(path, **arrays)


def pipe(path):
    """It would be read for ever."""
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("change", [damage, cut, exchange, pipe, os.unlink])
@pytest.mark.parametrize("running", [True, False], ids=["running", "restarted"])
def test_a_file_that_is_wrong_is_not_read(writer, tmp_path, caplog, change, running):
    """The answer is computed, the file goes, and one line says why."""
    settings = Settings(cache_dir=tmp_path)
    with serving.serve(writer, settings) as served:
        wanted = ask(served)
        written(served, tmp_path)
        if running:
            change(files(tmp_path)[0])
            assert ask(served) == wanted
    if not running:
        change(files(tmp_path)[0])
        with serving.serve(writer, settings) as served:
            assert ask(served) == wanted
    lines = [record.getMessage() for record in caplog.records if "prefix" in record.getMessage()]
    assert len(lines) == (running or change is not os.unlink)
    assert all(line.startswith("prefix dropped: ") and "\n" not in line for line in lines)
    (path,) = files(tmp_path)  # of the second answer
    assert dict(np.load(path))["format"] == 2


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG])
def test_a_full_disk_costs_a_line_in_the_log(writer, tmp_path, caplog, monkeypatch, number):
    """The answer comes, no half file stays, and the next one is kept."""

    def fills(file, **_):
        file.write(b"half")
        raise OSError(number, os.strerror(number))

    with serving.serve(writer, Settings(cache_dir=tmp_path)) as served:
        with monkeypatch.context() as patch:
            patch.setattr(np, "savez", fills)
            assert ask(served)[1] == 0
            serving.soon(lambda: "prefix not kept" in caplog.text, "nothing is said")
        serving.soon(lambda: not any(names for *_, names in os.walk(tmp_path)), "a half stays")
        assert ask(served)[1] == 0
        written(served, tmp_path)
    (line,) = [record.getMessage() for record in caplog.records if "prefix" in record.msg]
    assert os.strerror(number) in line
    assert "choose another disk" in line


def test_what_was_used_longest_ago_makes_room(writer, tmp_path):
    """In a limit of bytes, by its use, also behind a restart; one that never fits is not kept."""
    texts = [f"w{i} {SAID}" for i in range(60, 64)]
    with serving.serve(writer, Settings(cache_dir=tmp_path)) as served:
        for count, text in enumerate(texts[:2], 1):
            ask(served, text)
            written(served, tmp_path, count)
        size = served.serving.prefixes.size
    assert size == sum(path.stat().st_size for path in files(tmp_path))
    for path, age in zip(sorted(files(tmp_path), key=os.path.getmtime), (200, 100), strict=True):
        os.utime(path, (path.stat().st_mtime - age,) * 2)
    settings = Settings(cache_dir=tmp_path, cache_size=size + 10)
    with serving.serve(writer, settings) as served:
        assert ask(served, texts[0])[1] == 26
        before = files(tmp_path)
        ask(served, texts[2])
        serving.soon(lambda: files(tmp_path) != before, "it is not written")
    with serving.serve(writer, settings) as served:
        assert [ask(served, text)[1] for text in texts[:2]] == [26, 0]
        assert served.serving.prefixes.size <= size + 10
    shutil.rmtree(tmp_path)
    with serving.serve(writer, Settings(cache_dir=tmp_path, cache_size=100)) as served:
        ask(served)
    assert files(tmp_path) == []


def test_other_files_in_the_folder_stay(tmp_path):
    """Of other names, whatever the limit; a folder that is none is refused."""
    other = tmp_path / "mine" / "sums.npz"
    other.parent.mkdir()
    other.write_bytes(b"x" * 100)
    prefixes = Prefixes(tmp_path, 10)
    assert (prefixes.size, other.exists()) == (0, True)
    prefixes.close()
    with pytest.raises(OptionError, match=r"sums\.npz: File exists"):
        Prefixes(other, 10)


def test_no_folder_keeps_nothing(served):
    """As it is by default."""
    assert served.serving.prefixes is None
    assert ask(served)[1] == ask(served)[1] == 0
