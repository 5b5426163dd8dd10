"""The report page as an SVG: printed by Chromium as one long page, drawn by pdftocairo. Usage: page.py REPORT.html OUT.svg"""
import base64
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "e2e"))
import browser  # noqa: E402

WIDTH, PIXELS_AN_INCH = 1100, 96

with browser.Browser(browser.find()) as b, tempfile.TemporaryDirectory() as work:
    b.open(Path(sys.argv[1]).resolve(), width=WIDTH)
    b.call("Emulation.setEmulatedMedia", media="screen", features=[{"name": "prefers-color-scheme", "value": "light"}])
    height = b.value("document.documentElement.scrollHeight")
    pdf = b.call("Page.printToPDF", printBackground=True, paperWidth=WIDTH / PIXELS_AN_INCH, paperHeight=(height + 2) / PIXELS_AN_INCH, marginTop=0, marginBottom=0,
                 marginLeft=0, marginRight=0, pageRanges="1")["data"]
    page = Path(work) / "page.pdf"
    page.write_bytes(base64.b64decode(pdf))
    subprocess.run(["pdftocairo", "-svg", page, sys.argv[2]], check=True)
