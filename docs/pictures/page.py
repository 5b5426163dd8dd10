"""The first half of the report page as two SVGs, for light and for dark readers. A browser lays the page out; what it drew - boxes, lines of text, charts - is
written down with the colours that it computed, text as text. Usage: page.py REPORT.html LIGHT.svg DARK.svg"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "e2e"))
import browser  # noqa: E402

WIDTH = 1000
DRAW = r"""(() => {
  // What stays: the head, learning, where a step's time goes.
  [...document.querySelectorAll('section')].slice(2).forEach((s) => s.remove());
  [...document.querySelectorAll('.card')].filter((e) => /^Throughput/.test(e.textContent)).pop()?.remove();
  document.querySelectorAll('details').forEach((e) => e.remove());
  const out = [], number = (v) => String(Math.round(v * 10) / 10), escape = (s) => s.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
  const seen = (c) => c && c !== 'none' && c !== 'transparent' && !/, 0\)$/.test(c);
  const pen = document.createElement('canvas').getContext('2d');

  function box(e, style) {
    const r = e.getBoundingClientRect(), width = (side) => parseFloat(style[`border${side}Width`]), all = ['Top', 'Right', 'Bottom', 'Left'].every((s) => width(s) > 0);
    if (seen(style.backgroundColor) || all)
      out.push(`<rect x="${number(r.left)}" y="${number(r.top)}" width="${number(r.width)}" height="${number(r.height)}" rx="${number(Math.min(parseFloat(style.borderRadius) || 0,
          r.height / 2))}" fill="${seen(style.backgroundColor) ? style.backgroundColor : 'none'}"${all ? ` stroke="${style.borderTopColor}"` : ''}/>`);
    for (const [side, y] of [['Top', r.top], ['Bottom', r.bottom]])
      if (!all && width(side) > 0)
        out.push(`<path d="M${number(r.left)} ${number(y)}H${number(r.right)}" stroke="${style[`border${side}Color`]}"/>`);
    if (!all && width('Left') > 0)
      out.push(`<path d="M${number(r.left)} ${number(r.top)}V${number(r.bottom)}" stroke="${style.borderLeftColor}"/>`);
  }

  // A node's words, line by line: words of one line have one top.
  function text(node, style) {
    const lines = new Map(), range = document.createRange();
    for (const m of node.data.matchAll(/\S+/g)) {
      range.setStart(node, m.index);
      range.setEnd(node, m.index + m[0].length);
      const r = range.getBoundingClientRect(), line = lines.get(r.top);
      if (line) { line.words.push(m[0]); line.right = r.right; } else lines.set(r.top, {words: [m[0]], left: r.left, right: r.right, top: r.top});
    }
    pen.font = `${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
    const up = pen.measureText('x').fontBoundingBoxAscent, mono = /mono/i.test(style.fontFamily);
    for (const l of lines.values())
      out.push(`<text x="${number(l.left)}" y="${number(l.top + up)}" textLength="${number(l.right - l.left)}" lengthAdjust="spacingAndGlyphs" fill="${style.color}" font-size="${
          parseFloat(style.fontSize)}"${+style.fontWeight > 500 ? ' font-weight="bold"' : ''}${mono ? ' font-family="monospace"' : ''}>${escape(l.words.join(' '))}</text>`);
  }

  const PLAIN = {fill: 'rgb(0, 0, 0)', stroke: 'none', 'stroke-width': '1px', 'fill-opacity': '1', 'stroke-opacity': '1', opacity: '1', 'stroke-dasharray': 'none',
      'stroke-linecap': 'butt', 'stroke-linejoin': 'miter', 'text-anchor': 'start', 'font-size': '', 'font-weight': '400', 'dominant-baseline': 'auto'};
  function drawing(e) {
    const style = getComputedStyle(e), name = e.tagName;
    if (style.display === 'none' || style.visibility === 'hidden' || style.opacity === '0' || /^(title|desc)$/.test(name)) return '';
    const attributes = ['d', 'x', 'y', 'x1', 'y1', 'x2', 'y2', 'cx', 'cy', 'r', 'rx', 'ry', 'width', 'height', 'points', 'transform'].filter((a) => e.hasAttribute(a)).map((a) =>
      `${a}="${a === 'transform' ? e.getAttribute(a) : e.getAttribute(a).replace(/-?\d+\.\d+/g, number)}"`);
    for (const [property, plain] of Object.entries(PLAIN)) {
      const v = style.getPropertyValue(property);
      if (v !== plain && (!/^(text|font|dominant)/.test(property) || name === 'text') && !(name === 'g' && property !== 'opacity')) attributes.push(`${property}="${v}"`);
    }
    const inside = [...e.childNodes].map((c) => c.nodeType === 3 ? (name === 'text' || name === 'tspan' ? escape(c.data) : '') : c.nodeType === 1 ? drawing(c) : '').join('');
    return `<${name} ${attributes.join(' ')}>${inside}</${name}>`;
  }

  function walk(e) {
    const style = getComputedStyle(e);
    if (style.display === 'none' || style.visibility === 'hidden' || style.opacity === '0' || !e.getClientRects().length) return;
    if (e.tagName === 'svg') {
      const r = e.getBoundingClientRect();
      out.push(`<svg x="${number(r.left)}" y="${number(r.top)}" width="${number(r.width)}" height="${number(r.height)}" viewBox="${e.getAttribute('viewBox') ||
          `0 0 ${number(r.width)} ${number(r.height)}`}" preserveAspectRatio="${e.getAttribute('preserveAspectRatio') || 'xMidYMid'}">${[...e.children].map(drawing).join('')}</svg>`);
      return;
    }
    box(e, style);
    for (const c of e.childNodes)
      if (c.nodeType === 1) walk(c); else if (c.nodeType === 3) text(c, style);
  }

  scrollTo(0, 0);
  const ground = [document.body, document.documentElement].map((e) => getComputedStyle(e).backgroundColor).find(seen), page = document.getElementById('page');
  const height = Math.ceil(Math.max(...[...page.querySelectorAll('section')].map((s) => s.getBoundingClientRect().bottom))) + 24;
  walk(page);
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${innerWidth} ${height}" font-family="DejaVu Sans, Verdana, sans-serif" fill="none">` +
    `<rect width="${innerWidth}" height="${height}" fill="${ground}"/>\n${out.join('\n')}\n</svg>\n`;
})()"""

with browser.Browser(browser.find()) as b:
    for path, dark in ((sys.argv[2], False), (sys.argv[3], True)):
        b.open(Path(sys.argv[1]).resolve(), width=WIDTH, dark=dark)
        Path(path).write_text(b.value(DRAW))
