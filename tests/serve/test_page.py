"""The page at `/`, in a real Chromium, with its server: what it asks, shows, and keeps to.

It needs Debian's chromium and chromium-driver. The check of accessibility needs axe-core: `npm
install --no-save axe-core` in the root of the tree, or SEQ2EDGE_AXE as the path of axe.min.js.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import browser
import gated
import httpx
import numpy as np
import pytest
import serving
import sound_files
import speech_models
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from seq2edge.runtime.model import Model
from seq2edge.serve.calls.settings import Settings
from seq2edge.serve.routes.page import PATHS

ROOT = Path(__file__).resolve().parents[2]
AXE = Path(os.environ.get("SEQ2EDGE_AXE") or ROOT / "node_modules" / "axe-core" / "axe.min.js")
TEXT = "w5 w6 w7"
KEY = "a-key-of-many-letters"
IDLE = {"translate": "translator", "chat": "writer", "complete": "writer", "transcribe": "whisper"}
# What is filled in, and a part of what is shown then.
ENCODERS = {
    "embed": ({"input": f"{TEXT}\nw80"}, "1.00"),
    "rerank": ({"query": TEXT, "documents": f"{TEXT}\nw50"}, "w50"),
    "classify": ({"input": TEXT}, "LABEL_0"),
    "tag": ({"input": TEXT}, "LABEL"),
    "answer": ({"question": TEXT, "context": "w6 w7 w8"}, "w6 w7 w8"),
}


@pytest.fixture(scope="module")
def served(folders, speaking, made_once):
    """A server of a model for every tab."""
    more = {
        "whisper": made_once(speech_models.speech_bundle),
        "sentiment": speaking("bert"),
        "reranker": speaking("bert", num_labels=1),
        "tagger": speaking("bert-tokens"),
        "reader": speaking("bert-span"),
    }
    with serving.serve({**folders, **more}) as server:
        yield server


@pytest.fixture(scope="module")
def chromium():
    """One browser for all tests of the page."""
    if browser.MISSING:
        pytest.skip(f"not installed: {', '.join(browser.MISSING)}")
    with browser.browser() as running:
        yield running


@pytest.fixture
def page(chromium, served):
    """`page(use)`: the page at that tab. No script may err, and no other host be asked."""
    chromium.size(1280, 800)

    def open_at(use):
        chromium.open(f"{served.url}/#{use}")
        chromium.find(f"#{use}")
        return chromium

    yield open_at
    assert not chromium.complaints()
    assert all(each.startswith((served.url, "about:", "blob:")) for each in chromium.requests())


def ask(page, use, **values):
    """Fill in the form of a tab, send it, and wait for the end of the answer."""
    for name, value in values.items():
        page.run(
            "document.querySelector(arguments[0]).value = arguments[1]",
            f"#{use} [name={name}]",
            value,
        )
    page.find(f"#{use} .primary").click()
    wait(page, use)


def wait(page, use):
    """Until the answer is whole."""
    page.until(lambda: page.find(f"#{use} .progress").text == "Done", f"{use} is not done")


def facts(page, use):
    """What an answer took, by name."""
    return dict(zip(*(iter(page.text(f"#{use} .facts").splitlines()),) * 2, strict=True))


@pytest.mark.parametrize("path", PATHS)
def test_its_files_are_served_and_may_load_nothing_else(served, path):
    """Nothing of other hosts, nothing inline, in no frame, and as the type that is told."""
    answer = httpx.get(served.url + path)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"].split("; ")
    assert {"default-src 'self'", "frame-ancestors 'none'"} < set(policy)
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


def test_every_file_of_the_page_has_a_path():
    """A file that is forgotten would be in the wheel, and not on the page."""
    files = {file.name for file in (ROOT / "serve" / "page").iterdir()}
    assert set(PATHS.values()) == files


def test_a_server_without_the_page(folders):
    """By its settings."""
    with serving.serve({"writer": folders["writer"]}, Settings(page=False)) as server:
        assert httpx.get(server.url).status_code == 404


def test_a_translation_comes_with_what_it_took(page, served):
    """The library's text, times, and a line of curl that gives it again."""
    tab = page("translate")
    ask(tab, "translate", prompt=TEXT, max_tokens=9)
    answer = served.openai().completions.create(model="translator", prompt=TEXT, max_tokens=9)
    assert tab.text("#translate .answer") == answer.choices[0].text.strip()
    took = facts(tab, "translate")
    assert list(took) == ["First token", "Total", "Tokens", "Tokens/s"]
    assert int(took["Tokens"]) == answer.usage.completion_tokens
    tab.until(lambda: tab.text("#state") == "in memory", "it is not said to be loaded")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_line_of_curl_gives_the_same_answer(page, tmp_path):
    """Also where a shell would read a part of the text as its own."""
    tab = page("complete")
    ask(tab, "complete", prompt="w5 it's $HOME `w6`", max_tokens=9)
    line = tab.text("#complete pre")
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout.endswith(b"data: [DONE]\n\n")
    pieces = [part.partition('"')[0] for part in done.stdout.decode().split('"text":"')[1:]]
    assert "".join(pieces) == tab.run(
        "return document.querySelector('#complete .answer').innerText"
    )


def test_a_chat_of_two_turns(page):
    """By the keyboard; the second turn sends the first, and New forgets both."""
    tab = page("chat")
    for text in (TEXT, "w9 w10"):
        tab.run("document.querySelector('#chat [name=max_tokens]').value = 5")
        tab.find("#chat textarea").send_keys(text + Keys.ENTER)
        wait(tab, "chat")
    said = tab.text("#chat .answer").splitlines()
    assert (said[0], said[2], len(said)) == (TEXT, "w9 w10", 4)
    line = tab.text("#chat pre")
    assert line.index(TEXT) < line.index(said[1]) < line.index("w9 w10")
    tab.run(
        "[...document.querySelectorAll('#chat button')].find(b => b.innerText == 'New').click()"
    )
    assert tab.run("return document.querySelector('#chat .answer').children.length") == 0
    tab.run("document.querySelector('#chat [name=max_tokens]').value = 5")
    tab.find("#chat textarea").send_keys(TEXT + Keys.ENTER)
    wait(tab, "chat")
    assert tab.text("#chat .answer").splitlines() == said[:2]


def test_a_recording_from_a_file(page, served, tmp_path):
    """As the route transcribes it."""
    samples = np.clip(speech_models.recording(4), -1, 1) * 32767
    clip = tmp_path / "clip.wav"
    clip.write_bytes(sound_files.file_of("wav16", samples.astype(np.int16)))
    tab = page("transcribe")
    tab.find("#transcribe [name=file]").send_keys(str(clip))
    ask(tab, "transcribe")
    with clip.open("rb") as file:
        answer = served.openai().audio.transcriptions.create(model="whisper", file=file)
    assert tab.text("#transcribe .answer") == answer.text
    assert facts(tab, "transcribe")["Recording"] == "4 s"


def test_a_recording_from_the_microphone(page):
    """It becomes a file of 16 kHz, one channel and 16 bits, which is sent when it ends."""
    tab = page("transcribe")
    tab.find("#record").click()
    tab.until(lambda: tab.text("#record") == "End the recording", "it does not record")
    tab.run("return new Promise(resolve => setTimeout(resolve, 600))")
    tab.find("#record").click()
    wait(tab, "transcribe")
    header = tab.run(
        "const file = document.querySelector('#transcribe [name=file]').files[0];"
        "return file.arrayBuffer().then(bytes => [...new Uint8Array(bytes)])"
    )
    assert bytes(header[:4]) == b"RIFF"
    assert np.frombuffer(bytes(header[20:36]), "<u2").tolist() == [1, 1, 16000, 0, 32000, 0, 2, 16]
    samples = np.frombuffer(bytes(header[44:]), "<i2")
    assert 0.3 < len(samples) / 16000 < 3
    assert np.abs(samples).max() > 1000  # the browser's tone


@pytest.mark.parametrize("use", ENCODERS)
def test_what_encoders_answer(page, use):
    """Each on a tab of its own; what they say of a text stands where its letters are."""
    values, part = ENCODERS[use]
    tab = page(use)
    ask(tab, use, **values)
    assert part in tab.text(f"#{use} .answer")
    assert "Total" in facts(tab, use)


def test_entities_stand_where_python_counts_them(page, served):
    """Behind a letter that JavaScript counts as two."""
    text = f"\U0001f600 {TEXT} \U0001f600 w30 w60"
    answer = served.post("/v1/tag", {"model": "tagger", "input": text}).json()
    tab = page("tag")
    ask(tab, "tag", input=text)
    marks = tab.run(
        "return [...document.querySelectorAll('#tag mark')].map(m => m.firstChild.data)"
    )
    assert marks == [text[each["start"] : each["end"]] for each in answer["results"][0]]


def test_an_error_is_shown_in_one_place(page):
    """In the server's words, until the next call."""
    tab = page("translate")
    tab.run("document.querySelector('#translate [name=source_language]').value = 'xx'")
    tab.find("#translate textarea").send_keys(TEXT)
    tab.find("#translate .primary").click()
    assert tab.text("#error p") == "source language 'xx': this model takes none"
    ask(tab, "translate", source_language="", max_tokens=3)
    assert not tab.run("return document.getElementById('error').innerText")


def test_an_answer_without_a_token_is_said_to_be_empty(page):
    """And a turn without one is none: its message is in its field again."""
    tab = page("chat")
    tab.run(
        "const fetched = window.fetch; window.fetch = (route, request) =>"
        "  route.startsWith('v1/chat') ? Promise.resolve(new Response('data: [DONE]\\n\\n'))"
        "  : fetched(route, request)"
    )
    tab.find("#chat textarea").send_keys(TEXT + Keys.ENTER)
    tab.until(lambda: tab.text("#chat .progress") == "The answer is empty", "it is not told")
    tab.until(lambda: tab.find("#chat textarea").get_property("value") == TEXT, "it is lost")


def test_a_failed_turn_is_taken_back(page):
    """The message is in its field again, and not in the chat."""
    tab = page("chat")
    long = "w5 " * 100
    tab.run("document.querySelector('#chat textarea').value = arguments[0]", long)
    tab.find("#chat .primary").click()
    assert "100" in tab.text("#error p") or "positions" in tab.text("#error p")
    tab.until(lambda: tab.find("#chat textarea").get_property("value") == long, "it is lost")
    assert not tab.run("return document.querySelector('#chat .answer').children.length")


def test_all_goes_by_the_keyboard(page, served):
    """From the first Tab: the model, the tabs by arrows, the text, its answer, the copied line."""
    tab = page("translate")
    tab.open(served.url)  # with no tab named: Tab would begin there
    tab.find("#translate")

    def press(*keys):
        ActionChains(tab.driver).send_keys(*keys).perform()
        return tab.driver.switch_to.active_element

    assert press(Keys.TAB).get_attribute("id") == "model"
    assert press(Keys.TAB).text == "Translate"
    assert press(Keys.ARROW_LEFT).text == "Answer"  # around the end
    assert press(Keys.HOME).text == "Translate"
    assert press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT).text == "Complete"
    assert press(Keys.TAB).get_attribute("name") == "prompt"
    press(TEXT).send_keys(Keys.CONTROL + Keys.ENTER)
    wait(tab, "complete")
    assert press(Keys.TAB).text == "Options"
    assert press(Keys.TAB).text == "Complete"
    assert press(Keys.TAB).text == "Copy"
    copied = press(Keys.ENTER)
    tab.until(lambda: copied.text in ("Copied", "Selected"), "nothing is copied")


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_screen(page, width):
    """On every tab, with an answer where one without blanks is as long as it can be."""
    tab = page("translate")
    tab.size(width, 740)
    for use in (*IDLE, *ENCODERS):
        tab.find(f"#tab-{use}").click()
        tab.run(
            "for (const each of document.querySelectorAll(arguments[0])) each.append(arguments[1])",
            f"#{use} .answer, #{use} pre",
            "w" * 300,
        )
        widths = tab.run(
            "const page = document.documentElement; return [page.scrollWidth, page.clientWidth]"
        )
        assert widths[0] <= widths[1], use


@pytest.mark.skipif(not AXE.is_file(), reason="no axe-core: see the head of this file")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(page, scheme):
    """On every tab, idle, answered, and with an error."""
    tab = page("translate")
    tab.scheme(scheme)
    tab.run(AXE.read_text(encoding="utf-8"))
    for use in (*IDLE, *ENCODERS):
        tab.find(f"#tab-{use}").click()
        assert_accessible(tab, f"{use}, idle")
    for use, (values, _) in ENCODERS.items():
        tab.find(f"#tab-{use}").click()
        ask(tab, use, **values)
        assert_accessible(tab, f"{use}, answered")
    tab.find("#tab-chat").click()
    tab.run("document.querySelector('#chat details').open = true")
    ask(tab, "chat", message=TEXT, max_tokens=5)
    assert_accessible(tab, "chat, answered")
    tab.run("document.querySelector('#chat textarea').value = arguments[0]", "w5 " * 100)
    tab.find("#chat .primary").click()
    tab.find("#error p")
    assert_accessible(tab, "chat, with an error")


def assert_accessible(tab, state):
    """Nothing that axe calls serious or critical."""
    findings = tab.run("return axe.run().then(results => results.violations)")
    grave = [each for each in findings if each["impact"] in ("serious", "critical")]
    assert not grave, (state, [(each["id"], each["nodes"][0]["html"]) for each in grave])


def test_stop_ends_the_work(chromium, folders):
    """What came stays, the server works on nothing, and the focus is where it can ask again."""
    backend = gated.GatedBackend()
    model = {"writer": folders["writer"]}
    with serving.serve(model, load=lambda f: Model(serving.load(f).bundle, backend)) as server:
        chromium.open(f"{server.url}/#complete")
        chromium.find("#complete textarea").send_keys(TEXT + Keys.CONTROL + Keys.ENTER)
        backend.open(3)
        chromium.until(lambda: chromium.text("#complete .progress") == "Answering", "no token came")
        text = chromium.text("#complete .answer")
        chromium.find("#complete .stop").click()
        chromium.until(lambda: chromium.text("#complete .progress") == "Stopped", "it goes on")
        assert chromium.text("#complete .answer") == text
        assert chromium.driver.switch_to.active_element.text == "Complete"
        backend.open()
        entry = server.serving.pool.entries["writer"]
        serving.soon(lambda: entry.users == 0, "the call is held")


def test_a_server_with_keys_is_asked_with_one(chromium, folders, tmp_path):
    """The page itself needs none; a wrong one is told, a right one kept for the tab alone."""
    keys = tmp_path / "keys"
    keys.write_text(KEY, encoding="utf-8")
    with serving.serve({"writer": folders["writer"]}, Settings(keys=keys)) as server:
        chromium.open(server.url)
        chromium.find("#secret").send_keys("wrong")
        assert not chromium.run("return document.getElementById('error').innerText")
        chromium.find("#secret").send_keys(Keys.ENTER)
        chromium.until(lambda: "missing or wrong" in chromium.text("#error p"), "it is not told")
        chromium.find("#secret").send_keys(KEY + Keys.ENTER)
        chromium.find("#tabs")
        ask(chromium, "chat", message=TEXT, max_tokens=3)
        line = chromium.text("#chat pre")
        assert "Bearer $SEQ2EDGE_KEY" in line
        assert KEY not in line
        assert chromium.run("return localStorage.length + document.cookie.length") == 0
        chromium.find("#forget").click()
        assert chromium.find("#secret").get_property("value") == ""


def test_a_server_that_is_gone_is_told(chromium, folders):
    """Instead of an answer that never comes."""
    with serving.serve({"writer": folders["writer"]}) as server:
        chromium.open(f"{server.url}/#chat")
        chromium.find("#chat textarea").send_keys(TEXT)
    chromium.find("#chat .primary").click()
    assert chromium.text("#error p") == "The server does not answer."


def test_a_server_whose_models_have_no_tab(chromium, speaking):
    """Is told of, without a form that nobody could use."""
    with serving.serve({"filler": speaking("bert-masked")}) as server:
        chromium.open(server.url)
        assert "nothing" in chromium.find("main > p").get_attribute("id")
