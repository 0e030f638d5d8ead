"""The page of a user study, read as text and played in a browser without a screen."""

import base64
import io
import json
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest

from genjax.train.study_page import study_page

OPTIONS = dict(seconds=0.2, seed=0, title="Digits", protocol={"step": 20})

# Loads the page anew for each script and collects what is given to `say`; a script
# asks for a key of the keyboard by console.log("key Left").
BROWSER = """
import json, os, sys

os.environ |= {
    "QT_QPA_PLATFORM": "offscreen",
    "QTWEBENGINE_CHROMIUM_FLAGS": "--no-sandbox --disable-gpu",
}
from PyQt6.QtCore import Qt, QTimer, QUrl
from PyQt6.QtTest import QTest
from PyQt6.QtWebEngineCore import (
    QWebEnginePage, QWebEngineProfile, QWebEngineScript, QWebEngineUrlRequestInterceptor
)
from PyQt6.QtWebEngineWidgets import QWebEngineView
from PyQt6.QtWidgets import QApplication

job = json.loads(sys.argv[1])
scripts, said, urls, log, files = iter(job["scripts"]), [], [], [], []


class Interceptor(QWebEngineUrlRequestInterceptor):
    def interceptRequest(self, info):
        urls.append(info.requestUrl().toString()[:80])


class Page(QWebEnginePage):
    def javaScriptConsoleMessage(self, level, text, *_):
        if text.startswith("said "):
            said.append(json.loads(text[5:]))
            load()
        elif text.startswith("key "):
            QTest.keyClick(view.focusProxy(), getattr(Qt.Key, "Key_" + text[4:]))
        elif level == level.ErrorMessageLevel:
            log.append(text)
            end()


def load():
    global script
    script = next(scripts, None)
    if script is not None:
        page.load(QUrl.fromLocalFile(job["page"]))
    end_when_done()


def end_when_done():
    if len(said) == len(job["scripts"]) and len(files) == job["downloads"]:
        end()


def loaded(ok):
    if script is None:
        print("ready", flush=True)
        load()
    else:
        code = "(async () => {" + job["lib"] + script + "})()"
        page.runJavaScript(code + ".catch((error) => console.error(error.stack));")


def saved(request):
    request.setDownloadDirectory(job["folder"])
    request.isFinishedChanged.connect(
        lambda: (files.append(request), end_when_done())
    )
    request.accept()


def end():
    print(json.dumps({"said": said, "urls": urls, "log": log}), flush=True)
    os._exit(0)


app = QApplication(sys.argv[:1])
profile = QWebEngineProfile("study")
profile.setPersistentStoragePath(job["folder"])
profile.setCachePath(job["folder"])
interceptor = Interceptor()
profile.setUrlRequestInterceptor(interceptor)
profile.downloadRequested.connect(saved)
page, view, script = Page(profile), QWebEngineView(), None
first = QWebEngineScript()
first.setSourceCode(job["first"])
first.setInjectionPoint(QWebEngineScript.InjectionPoint.DocumentCreation)
first.setWorldId(QWebEngineScript.ScriptWorldId.MainWorld)
page.scripts().insert(first)
page.loadFinished.connect(loaded)
view.setPage(page)
view.resize(*job["window"])
view.show()
view.activateWindow()
view.setFocus()
page.setHtml("")
QTimer.singleShot(100_000, end)
app.exec()
"""

# Real images are brighter than generated ones, so `play` can be right at will.
LIB = """
const say = (x) => console.log("said " + JSON.stringify(x));
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const text = (id) => document.getElementById(id).textContent;
const phase = () => document.body.dataset.phase;
const until = (...wanted) => new Promise((done) => {
  const look = () => {
    if (wanted.includes(phase())) { watch.disconnect(); done(); }
  };
  const watch = new MutationObserver(look);
  watch.observe(document.body, { attributeFilter: ["data-phase"] });
  look();
});
const seen = () => ["left", "right"].map(
  (id) => getComputedStyle(document.getElementById(id)).visibility);
function real() {
  const canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
  const light = ["left", "right"].map((id) => {
    pen.drawImage(document.getElementById(id), 0, 0);
    return pen.getImageData(0, 0, 1, 1).data[0];
  });
  return light[0] > light[1] ? "left" : "right";
}
const button = (side) => document.querySelector(`button[data-side=${side}]`);
const key = (side) => side === "left" ? "Left" : "Right";
async function play(plan) {
  const trials = [];
  for (const right of plan) {
    await until("fixation");
    const trial = { before: seen(), early: [] };
    const try_early = () => {
      button("left").click();
      document.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
      trial.early.push(phase());
    };
    try_early();
    await until("shown");
    trial.during = seen();
    try_early();
    await until("asked");
    trial.after = seen();
    trial.progress = text("progress");
    trial.real = real();
    trial.answer = right ? trial.real : trial.real === "left" ? "right" : "left";
    await sleep(20);
    if (trials.length % 2) button(trial.answer).click();
    else console.log("key " + key(trial.answer));
    await until("fixation", "score");
    trials.push(trial);
  }
  return trials;
}
"""


def browse(page: str, folder: Path, *scripts: str, **options) -> dict:
    """What the scripts say, each on the page loaded anew; all URLs and the log."""
    path = folder / "a study.html"
    path.write_text(page, encoding="utf-8")
    job = dict(page=str(path), folder=str(folder), scripts=scripts, lib=LIB)
    job |= dict(first="", downloads=0, window=(1200, 900)) | options
    words = [sys.executable, "-c", BROWSER, json.dumps(job)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=150)
    if "ready" not in done.stdout:
        pytest.skip(f"no QtWebEngine: {done.stderr.strip()[-300:]}")
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["log"] == [] and len(found["said"]) == len(scripts), found
    assert any(url.startswith("file:") for url in found["urls"])
    assert {url.split(":")[0] for url in found["urls"]} <= {"file", "data", "blob"}
    return found["said"]


def noise(num: int, channels: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Bright real images, dark generated ones, no two alike."""
    x = np.random.default_rng(1).integers(
        100, size=(2, num, 6, 8, channels), dtype=np.uint8
    )
    return x[0] + 150, x[1]


def content(page: str) -> dict:
    """What the page holds as JSON."""
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


def key(page: str) -> list[dict]:
    return json.loads(base64.b64decode(content(page)["key"]))


def png(uri: str) -> bytes:
    head = "data:image/png;base64,"
    assert uri.startswith(head)
    return base64.b64decode(uri.removeprefix(head))


def chunks(file: bytes) -> tuple[str, ...]:
    """Names of the parts of a PNG: 8 bytes, then length, name, data and CRC of each."""
    names, at = [], 8
    while at < len(file):
        (length,) = struct.unpack(">I", file[at : at + 4])
        names.append(file[at + 4 : at + 8].decode())
        at += 12 + length
    return tuple(names)


def test_a_study_is_played_left_reloaded_scored_and_saved(tmp_path):
    """Six of eight right, by keys and by clicks; reloaded while the fourth is shown."""
    plan = [True, False, True, True, False, True, True, True]
    found = browse(
        study_page(*noise(8), **OPTIONS),
        tmp_path,
        """
        const start = performance.now(), focus = document.activeElement.id;
        console.log("key Return");
        const trials = await play([true, false, true]);
        const ms = performance.now() - start;
        await until("shown");
        say({ focus, trials, ms });
        """,
        """
        const begin = text("begin");
        document.getElementById("begin").click();
        const trials = await play([true, false, true, true, true]);
        say({ begin, trials });
        """,
        """
        const shown = ["result", "share", "verdict", "bias", "protocol"].map(text);
        document.getElementById("save").click();
        document.getElementById("again").click();
        const cases = [[0, 5], [5, 5], [3, 7], [57, 100]];
        const intervals = cases.map(([k, n]) => wilson(k, n));
        say({ shown, phase: phase(), cases, intervals });
        """,
        """
        const begin = text("begin");
        document.getElementById("begin").click();
        await until("shown");
        document.dispatchEvent(new Event("visibilitychange"));
        await sleep(0);
        say({ begin, phase: phase() });
        """,
        downloads=1,
    )
    assert found[0]["focus"] == "begin" and found[1]["begin"] == "Go on with pair 4"
    assert found[2]["phase"] == "start"
    # A page that is no longer looked at shows nothing more.
    assert found[3] == {"begin": "Start", "phase": "asked"}
    trials = found[0]["trials"] + found[1]["trials"]
    for i, trial in enumerate(trials):
        assert trial["before"] == trial["after"] == ["hidden"] * 2
        assert trial["during"] == ["visible"] * 2
        assert trial["early"] == ["fixation", "shown"]
        assert trial["progress"] == f"Pair {i + 1} of 8. Which one was real?"

    (path,) = tmp_path.glob("genjax-study-*.json")
    saved = json.loads(path.read_text())
    answers = saved.pop("trials")
    for trial, answer, right in zip(trials, answers, plan, strict=True):
        assert answer["real"] == trial["real"] and answer["correct"] == right
        assert answer["answer"] == trial["answer"]
        assert answer["shown_ms"] >= 200 and answer["response_ms"] >= 19
    assert [x["trial"] for x in answers] == list(range(1, 9))
    assert [x["showings"] for x in answers] == [1, 1, 1, 2, 1, 1, 1, 1]
    # The times do not overlap, and a cross is shown for 500 ms before each.
    spent = sum(500 + x["shown_ms"] + x["response_ms"] for x in answers[:3])
    assert spent <= found[0]["ms"]

    interval = saved.pop("interval_95")
    expected = binomtest(6, 8).proportion_ci(method="wilson")
    np.testing.assert_allclose(interval, expected, rtol=1e-12)
    lefts = sum(x["answer"] == "left" for x in trials)
    assert saved == {
        "study": path.stem,
        "title": "Digits",
        "seconds": 0.2,
        "fixation_ms": 500,
        "protocol": {"step": 20},
        "num_trials": 8,
        "correct": 6,
        "share": 0.75,
        "left_chosen": lefts,
        "left_real": 4,
    }
    result, share, verdict, bias, protocol = found[2]["shown"]
    assert result == "6 of 8 right" and protocol == "step20"
    assert re.findall(r"[\d.]+(?=\s%)", share) == [
        "75.0",
        "95",
        f"{100 * expected.low:.1f}",
        f"{100 * expected.high:.1f}",
    ]
    assert "holds 50" in verdict and f"left image {lefts} times" in bias
    for (k, n), interval in zip(found[2]["cases"], found[2]["intervals"], strict=True):
        expected = binomtest(k, n).proportion_ci(method="wilson")
        np.testing.assert_allclose(interval, expected, atol=1e-12)


def test_hostile_words_no_storage_and_a_narrow_window(tmp_path):
    """Words are shown as they are; images of 6 x 8 grow by a whole factor."""
    hack = "</script><script>window.hacked = 1</script><!-- <script> ${alert()} `"
    hack += "<img src='http://127.0.0.1:9/x' onerror='window.hacked = 1'>"
    hack += "long" * 30
    protocol = {"workdir": hack, hack: [hack], "path": Path("a"), "token": "{{data}}"}
    options = OPTIONS | dict(seconds=0.02, title=hack, protocol=protocol)
    (found,) = browse(
        study_page(*noise(4, 3), **options),
        tmp_path,
        """
        const tags = (name) => document.querySelectorAll(name).length;
        const widths = [], measure = () =>
          widths.push(document.documentElement.scrollWidth, innerWidth);
        let blocked = false;
        try { localStorage; } catch { blocked = true; }
        measure();
        document.getElementById("begin").click();
        until("shown").then(measure);
        await play([true, true, true, true]);
        measure();
        const { width, height } = document.getElementById("right").style;
        say({
          blocked, width, height, widths, hacked: window.hacked ?? "no",
          title: [document.title, text("title")], verdict: text("verdict"),
          tags: ["img", "script", "h1 *", "td *", "th *"].map(tags),
          rows: [...document.querySelectorAll("tr")].map(
            (row) => [...row.children].map((cell) => cell.textContent)),
        });
        """,
        first="""
        Object.defineProperty(window, "localStorage",
          { get() { throw new DOMException("no", "SecurityError"); } });
        """,
        window=(390, 700),
    )
    assert found["blocked"] and found["hacked"] == "no"
    assert found["tags"] == [2, 2, 0, 0, 0]
    assert found["title"] == [" ".join(hack.split()), hack]
    rows = dict(found["rows"])
    assert json.loads(rows.pop(hack)) == [hack]
    assert rows == {"workdir": hack, "path": "a", "token": "{{data}}"}
    assert "lies above" in found["verdict"]  # Of 4 of 4, from 51 %.
    page_widths = np.array(found["widths"]).reshape(-1, 2)
    assert (page_widths[:, 0] <= page_widths[:, 1]).all() and page_widths.max() == 390
    sizes = [float(found[name].removesuffix("px")) for name in ("width", "height")]
    factor = sizes[0] / 8  # Which depends on whether there is a scroll bar.
    assert sizes == [8 * factor, 6 * factor] and factor in range(18, 23)


@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_is_embedded_once_and_only_the_key_tells_which_is_real(channels):
    real, fake = noise(9, channels)
    page = study_page(real, fake, **OPTIONS)
    found, used = content(page), []
    for pair, entry in zip(found["pairs"], key(page), strict=True):
        images = [np.asarray(Image.open(io.BytesIO(png(uri)))) for uri in pair]
        if entry["real"] == "right":
            images.reverse()
        i, j = entry["real_index"], entry["fake_index"]
        np.testing.assert_array_equal(images[0].reshape(real[i].shape), real[i])
        np.testing.assert_array_equal(images[1].reshape(fake[j].shape), fake[j])
        used.append((i, j))
        assert {chunks(png(uri)) for uri in pair} == {("IHDR", "IDAT", "IEND")}
    assert (
        len(used) == 9
        and [sorted(x) for x in zip(*used, strict=True)] == [list(range(9))] * 2
    )
    assert set(found) == {
        "id", "key", "pairs", "protocol", "seconds", "size", "title"
    }  # fmt: skip
    assert "real_index" not in page and "fake_index" not in page


def test_the_seed_draws_sides_pairs_and_order():
    """Left and right are real equally often: no side is a better guess."""
    pages = [study_page(*noise(40), **OPTIONS | dict(seed=s)) for s in (3, 3, 4)]
    assert pages[0] == pages[1]
    keys = [key(pages[0]), key(pages[2])]
    for name in ("real", "real_index", "fake_index"):
        first, second = ([entry[name] for entry in x] for x in keys)
        assert first != second
    for entries in keys:
        sides = [entry["real"] for entry in entries]
        assert sides.count("left") == 20 and sides != sorted(sides)
        assert any(x["real_index"] != x["fake_index"] for x in entries)
    odd = [key(study_page(*noise(3), **OPTIONS | dict(seed=s))) for s in range(20)]
    counts = [sum(entry["real"] == "left" for entry in x) for x in odd]
    assert set(counts) == {1, 2}


def test_answers_are_kept_under_a_name_of_the_content():
    """Any difference gives another name, so that no answers are mixed."""
    changes = [{}, {"seed": 1}, {"seconds": 1}, {"title": "x"}, {"protocol": {}}]
    pages = [study_page(*noise(4), **OPTIONS | change) for change in changes]
    pages.append(study_page(*noise(4)[::-1], **OPTIONS))
    assert len({content(page)["id"] for page in pages}) == 6
    assert not any("://" in page or "src=" in page for page in pages)


@pytest.mark.parametrize(
    "real, fake",
    [
        (np.zeros((2, 4, 4, 1)), np.zeros((2, 4, 4, 1), np.uint8)),
        (np.zeros((2, 4, 4, 1), np.uint8), np.zeros((2, 4, 4, 1), np.int8)),
        (np.zeros((2, 4, 4, 1), np.uint8), np.zeros((3, 4, 4, 1), np.uint8)),
        (np.zeros((0, 4, 4, 1), np.uint8),) * 2,
        (np.zeros((2, 4, 4, 4), np.uint8),) * 2,
        (np.zeros((2, 4, 3), np.uint8),) * 2,
    ],
)
def test_other_images_are_refused(real, fake):
    with pytest.raises(ValueError, match=r"expected real and fake .* found (uint8|fl)"):
        study_page(real, fake, **OPTIONS)


@pytest.mark.parametrize("seconds", [0, -1, np.inf, np.nan])
def test_other_times_are_refused(seconds):
    with pytest.raises(ValueError, match="above 0 s, found seconds="):
        study_page(*noise(2), **OPTIONS | dict(seconds=seconds))


def test_a_protocol_that_no_browser_reads_is_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        study_page(*noise(2), **OPTIONS | dict(protocol={"fid": float("nan")}))
