"""The lines of a terminal (stdin) as an SVG (stdout) that carries its own ground, so that it can be read on a light page and on a dark one."""
import sys
from xml.sax.saxutils import escape

SIZE, ADVANCE, LEADING, MARGIN = 13, 7.8, 18, 16
lines = sys.stdin.read().rstrip("\n").split("\n")
width, height = max(map(len, lines)) * ADVANCE + 2 * MARGIN, len(lines) * LEADING + 2 * MARGIN + 18
print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="{SIZE}">')
print(f'<rect width="{width:.0f}" height="{height:.0f}" rx="8" fill="#16191d" stroke="#3a3f46"/>')
for i, colour in enumerate(("#e0635a", "#dfb23f", "#62b55a")):
    print(f'<circle cx="{MARGIN + 4 + 18 * i}" cy="15" r="5" fill="{colour}"/>')
for i, line in enumerate(lines):
    text = line.rstrip()
    if text:
        ink = "#8fd694" if text.startswith("$") else "#ffd479" if text.startswith("running") else "#d6dae0"
        indent = len(text) - len(text.lstrip())
        shown = text.lstrip()
        print(f'<text x="{MARGIN + indent * ADVANCE:.1f}" y="{MARGIN + 30 + i * LEADING}" fill="{ink}" textLength="{len(shown) * ADVANCE:.1f}" '
              f'lengthAdjust="spacingAndGlyphs" xml:space="preserve">{escape(shown)}</text>')
print("</svg>")
