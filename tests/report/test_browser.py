"""The page in a real browser: its script finds operations, folds modules, fails nowhere and loads nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from nanproof.report.html import write_html
from nanproof.result import Conversion

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
LOOK = """
<script>
const found = [];
window.addEventListener("error", (event) => found.push(`error: ${event.message}`));
const visible = () => [...document.querySelectorAll(".op")].filter((row) => row.checkVisibility()).length;
const count = (what) => found.push(`${what}=${visible()}`);
const box = document.getElementById("find");
const search = (text) => { box.value = text; box.dispatchEvent(new Event("input")); };
document.getElementById("close-all").click(); count("closed");
document.getElementById("open-all").click(); count("open");
search("softmax");
setTimeout(() => {
  count("softmax");
  found.push(`said=${document.getElementById("found").textContent}`);
  search("no such op");
  setTimeout(() => {
    count("nothing");
    search("");
    setTimeout(() => {
      count("again");
      found.push(`wide=${document.documentElement.scrollWidth <= window.innerWidth}`);
      found.push(`requests=${performance.getEntriesByType("resource").length}`);
      document.body.dataset.found = found.join("|");
    }, 200);
  }, 200);
}, 200);
</script>
</body>
"""


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here: install Debian's package chromium")
@pytest.mark.parametrize("width", [1280, 820, 500])
def test_search_and_folding(conversion: Conversion, tmp_path: Path, width: int):
    path = write_html(conversion, tmp_path / "r.html")
    path.write_text(path.read_text("utf-8").replace("</body>", LOOK), "utf-8")
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--dump-dom", path.as_uri()]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    said = re.search(r'data-found="([^"]*)"', run.stdout)
    assert said, run.stderr
    ops = sum(1 for _ in conversion.program.walk())
    texts = [(op.name, op.type, op.source.code if op.source else "") for op in conversion.program.walk()]
    softmax = sum("softmax" in " ".join(text) for text in texts)
    assert 0 < softmax < ops
    assert dict(part.split("=") for part in said[1].split("|")) == {
        "closed": "0",
        "open": str(ops),
        "softmax": str(softmax),
        "said": f"{softmax} of {ops} ops",
        "nothing": "0",
        "again": str(ops),
        "wide": "true",
        "requests": "0",
    }
