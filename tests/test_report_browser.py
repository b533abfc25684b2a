"""The page of ``granet report`` in Chromium, if installed: nothing overlaps, is cut off or is fetched."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from granet.analysis.report import report
from granet.recipe import Recipe
from granet.training import RunFolder, train
from granet_cli.report.page import page
from tests.synthetic import write_image_folder

CHROMIUM = os.environ.get("GRANET_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: name one in GRANET_CHROMIUM to run this")

QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
    *("--disable-features=NetworkTimeServiceQuerying", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
)

# The policy of the page forbids scripts, so this goes into a copy without the policy.
MEASURE = """<script>
const found = {screen: innerWidth, page: document.documentElement.scrollWidth, outside: [], overlapping: [], wide: []};
for (const details of document.querySelectorAll("details")) details.open = true;
found.page = Math.max(found.page, document.documentElement.scrollWidth);
for (const one of document.querySelectorAll("body *")) {
  const box = one.getBoundingClientRect();
  const scrolled = one.parentElement.closest(".scroll, svg");
  if (box.right > innerWidth + 0.5 && !scrolled) found.wide.push(one.outerHTML.slice(0, 80));
}
for (const svg of document.querySelectorAll("svg[role=img]")) {
  const view = svg.viewBox.baseVal, frame = svg.getBoundingClientRect(), scale = view.width / frame.width;
  const texts = [...svg.querySelectorAll("text")].filter(text => text.textContent).map(text => {
    const box = text.getBoundingClientRect();
    return [text.textContent, {x: (box.x - frame.x) * scale, y: (box.y - frame.y) * scale,
                               width: box.width * scale, height: box.height * scale}];
  });
  for (const [words, box] of texts)
    if (box.x < 0 || box.y < -1 || box.x + box.width > view.width || box.y + box.height > view.height + 2)
      found.outside.push(svg.id + ": " + words);
  for (const [i, [one, a]] of texts.entries())
    for (const [other, b] of texts.slice(i + 1))
      if (Math.min(a.x + a.width, b.x + b.width) - Math.max(a.x, b.x) > 1 &&
          Math.min(a.y + a.height, b.y + b.height) - Math.max(a.y, b.y) > 3)
        found.overlapping.push(svg.id + ": " + one + " and " + other);
}
parent.postMessage(JSON.stringify(found), "*");
</script>"""

# A window is never narrower than 500 pixels; a frame in it is.
FRAME = """<!DOCTYPE html><title>harness</title><script>
addEventListener("message", event => { document.documentElement.dataset.found = event.data; });
</script><iframe src="%s" width="%d" height="900" style="border: 0"></iframe>"""


@dataclass(frozen=True)
class Browser:
    folder: Path

    def run(self, file: Path, *flags: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(CHROMIUM), *QUIET, f"--user-data-dir={self.folder / 'profile'}", *flags, file.as_uri()],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )

    def measured(self, text: str, width: int) -> dict[str, Any]:
        """What a script finds out about a page on a screen of this width."""
        bare, count = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
        assert count == 1
        file = self.folder / f"measured-{width}.html"
        file.write_text(bare.replace("</body>", MEASURE + "</body>"))
        harness = self.folder / "harness.html"
        harness.write_text(FRAME % (file.name, width))
        dump = self.run(harness, "--dump-dom", "--window-size=1400,1000", "--virtual-time-budget=3000").stdout
        (found,) = re.findall(r'<html[^>]* data-found="([^"]*)"', dump)
        return dict(json.loads(html.unescape(found)))


def requests(log: Path) -> list[str]:
    """What pages asked the network for. The number stands for that in Chromium; the browser itself asks, too."""
    return re.findall(r'"traffic_annotation":101845102,"url":"([^"]*)"', log.read_text())


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The page of one run, and that of several whose curves end next to each other, in folders with long names."""
    root = tmp_path_factory.mktemp("runs")
    images = write_image_folder(tmp_path_factory.mktemp("images"), per_class=27)
    long = "a-run-whose-name-is-longer-than-a-phone-is-wide-and-has-no-place-to-break-at-all-0123456789"
    settings: dict[str, dict[str, object]] = {
        long: {"name": "granet", "density": 0.2, "interval": "4it", "end": "9it"},
        "rigl": {"name": "rigl", "density": 0.3, "interval": "4it"},
        "static": {"name": "static", "density": 0.31},
        "dense": {"name": "dense"},
    }
    for name, method in settings.items():
        data = {
            "name": "n" * 120,
            "model": {"name": "lenet-300-100"},
            "data": {"name": "image-folder", "directory": str(images)},
            "method": method,
            "optimizer": {"name": "sgd", "learning_rate": 0.05},
            "schedule": {"name": "cosine"},
            "training": {"epochs": 3, "batch_size": 12},
        }
        train(Recipe.from_dict(data), RunFolder(root / name), torch.device("cpu"))
    return [page(report([str(root / long)])), page(report([str(root), str(root / "nowhere")]))]


@pytest.mark.parametrize("width", [320, 360, 1280])
def test_no_text_is_cut_off_or_overlaps(pages: list[str], width: int, tmp_path: Path) -> None:
    for text in pages:
        found = Browser(tmp_path).measured(text, width)
        assert found["screen"] == width
        assert found["page"] <= width, found["wide"]
        assert not found["wide"]
        assert not found["outside"]
        assert not found["overlapping"]


def test_the_console_is_empty_and_nothing_is_requested(pages: list[str], tmp_path: Path) -> None:
    file, log = tmp_path / "page.html", tmp_path / "net.json"
    file.write_text(pages[1])
    done = Browser(tmp_path).run(
        file, "--enable-logging=stderr", f"--log-net-log={log}", f"--screenshot={tmp_path / 'page.png'}"
    )
    assert "CONSOLE" not in done.stderr
    assert (tmp_path / "page.png").stat().st_size > 10_000
    assert requests(log) == []
    # The log does record requests: without its policy, the same page with a remote image asks for it.
    bare = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", pages[1])
    file.write_text(
        bare.replace("</body>", '<img src="http://127.0.0.1:9/x.png"><script>console.log(1)</script></body>')
    )
    done = Browser(tmp_path).run(
        file, "--enable-logging=stderr", f"--log-net-log={log}", f"--screenshot={tmp_path / 'page.png'}"
    )
    assert "CONSOLE" in done.stderr
    assert requests(log) == ["http://127.0.0.1:9/x.png"]


def test_injected_scripts_and_images_are_blocked(pages: list[str], tmp_path: Path) -> None:
    file, log = tmp_path / "page.html", tmp_path / "net.json"
    smuggled = (
        '<script>document.title = "obeyed"</script><img src="http://127.0.0.1:9/x.png" onerror="alert(1)"></body>'
    )
    file.write_text(pages[0].replace("</body>", smuggled))
    done = Browser(tmp_path).run(file, "--enable-logging=stderr", f"--log-net-log={log}", "--dump-dom")
    assert "Content Security Policy" in done.stderr
    assert "<title>obeyed" not in done.stdout
    assert requests(log) == []
