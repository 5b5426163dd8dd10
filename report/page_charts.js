'use strict';
/* The run page, first half: tools and charts. It is drawn from the JSON in #data. Text of the run reaches the document through text nodes and setAttribute only. */
const D = JSON.parse(document.getElementById('data').textContent);
const R = D.report, S = D.series;
const LATER = (Array.isArray(D.phases) ? D.phases : []).slice(1).filter((p) => p && typeof p.first_step === 'number');   // after the first phase
const PARTS = [
  ['compute', 'Computing', 'forward and backward passes'],
  ['inside', 'Sums inside a site', 'reduce and gather among the ranks of a gang'],
  ['between', R.world && R.world.sites.length === 1 ? 'Commit' : 'Between sites', 'from contributing to the published version'],
  ['data', 'Waiting for data', 'a rank stood still for want of samples'],
  ['checkpoint', 'Checkpoint', 'shards copied their blocks aside'],
];

/* ---- small tools ---- */
const SVG = 'http://www.w3.org/2000/svg';
function make(space, tag, attributes, children) {
  const e = space ? document.createElementNS(space, tag) : document.createElement(tag);
  for (const [k, v] of Object.entries(attributes || {})) if (v !== null && v !== undefined) e.setAttribute(k, v);
  e.append(...children.flat().filter((c) => c !== null && c !== undefined && c !== false));
  return e;
}
const h = (tag, attributes, ...children) => make(null, tag, attributes, children);
const s = (tag, attributes, ...children) => make(SVG, tag, attributes, children);
const has = (v) => v !== null && v !== undefined;
const is = (v) => typeof v === 'number' && isFinite(v);
const colour = (name) => `var(--${name})`;
const grouped = (v) => Math.round(v).toLocaleString('en-US');
const plural = (n, one, many) => `${grouped(n)} ${n === 1 ? one : many || one + 's'}`;
const number = (v, digits = 4) => !is(v) ? '–' : v !== 0 && (Math.abs(v) < 1e-3 || Math.abs(v) >= 1e6) ? v.toExponential(2) : v.toPrecision(digits);
const points = (v) => `${v < 0 ? '\u2212' : '+'}${(Math.abs(v) * 100).toFixed(2)}`;
const percent = (v, digits = 2) => is(v) ? `${(v * 100).toFixed(digits)} %` : '–';
function bytes(v) {
  if (!is(v)) return '–';
  const units = ['B', 'kB', 'MB', 'GB', 'TB', 'PB'];
  let k = 0;
  while (v >= 999.5 && k < units.length - 1) { v /= 1000; k++; }
  return `${k === 0 || v >= 100 ? v.toFixed(0) : v.toFixed(v >= 10 ? 1 : 2)} ${units[k]}`;
}
function span(t) {
  if (!is(t)) return '–';
  if (t > 0 && t < 9.95e-5) return `${(t * 1e6).toFixed(t < 1e-5 ? 1 : 0)} \u00b5s`;
  if (t === 0) return '0';
  if (t < 0.9995) return `${(t * 1000).toFixed(t < 0.01 ? 2 : t < 0.1 ? 1 : 0)} ms`;
  if (t < 60) return `${t.toFixed(1)} s`;
  const m = Math.round(t / 60), hours = Math.floor(m / 60);
  if (t < 3600) return `${Math.floor(t / 60)} min ${Math.floor(t % 60)} s`;
  return hours < 48 ? `${hours} h ${m % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}
const when = (text) => {
  const d = new Date(text);
  return isNaN(d) ? '–' : `${d.toISOString().slice(0, 10)} ${d.toISOString().slice(11, 19)} UTC`;
};
const clock = (text) => { const d = new Date(text); return isNaN(d) ? '–' : d.toISOString().slice(11, 19); };
const section = (title, ...children) => h('section', { 'aria-label': title }, h('h2', {}, title), ...children);
const swatch = (name) => h('span', { class: 'swatch', style: `background:${colour(name)}`, 'aria-hidden': 'true' });
function table(head, rows, label, shape = 'scroll') {
  const kind = (c) => (c && c.kind) || null;
  const still = shape.includes('tall') ? { tabindex: '0', role: 'region', 'aria-label': label } : {};
  return h('div', { class: shape, ...still }, h('table', { 'aria-label': label },
    h('thead', {}, h('tr', {}, head.map((c) => h('th', { scope: 'col', class: kind(c) }, kind(c) ? c.text : c)))),
    h('tbody', {}, rows.map((row) => h('tr', {}, row.map((c, i) => h('td', { class: kind(head[i]),
      'data-label': kind(head[i]) === 'number' ? head[i].text : null }, c)))))));
}
const right = (text) => ({ text, kind: 'number' });
const wide = (text) => ({ text, kind: 'text' });
const keep = (text) => ({ text, kind: 'keep' });

/* ---- charts: one x axis for all, so that one cursor moves through all of them ---- */
const charts = [];
let cursor = -1;
const X = (S.step || []).map(Number);
const lastStep = X.length ? X[X.length - 1] : 0;
const firstStep = S.epoch_step[0] || 1;

function ticks(low, high, about) {
  const raw = (high - low) / Math.max(about, 1), power = 10 ** Math.floor(Math.log10(raw || 1));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((v) => v >= raw) || raw;
  const out = [];
  for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + step * 1e-6; v += step) out.push(Math.abs(v) < step * 1e-9 ? 0 : v);
  return out;
}
function smooth(values) {            // a centred mean, narrower towards the ends
  const reach = Math.max(1, Math.round(values.length / 80)), out = [];
  for (let i = 0; i < values.length; i++) {
    let sum = 0, n = 0;
    const near = Math.min(reach, i, values.length - 1 - i);
    for (let k = i - near; k <= i + near; k++) if (is(values[k])) { sum += values[k]; n++; }
    out.push(n ? sum / n : null);
  }
  return out;
}
function extent(lists) {
  let low = Infinity, high = -Infinity;
  for (const list of lists) for (const v of list || []) if (is(v)) { low = Math.min(low, v); high = Math.max(high, v); }
  return low <= high ? [low, high] : null;
}
function line(values, x, y) {
  let d = '', open = false;
  values.forEach((v, i) => {
    if (is(v)) d += `${open ? 'L' : 'M'}${x(i).toFixed(1)} ${y(v).toFixed(1)}`;
    open = is(v);
  });
  return d;
}
const BAR = X.length > 1 ? 2 : 24;
function band(low, high, x, y) {
  let d = '', start = -1;
  for (let i = 0; i <= low.length; i++) {
    const there = i < low.length && is(low[i]) && is(high[i]);
    if (there && start < 0) start = i;
    if (there || start < 0) continue;
    if (start === i - 1) {           // alone: a bar
      d += `M${(x(start) - BAR).toFixed(1)} ${y(high[start]).toFixed(1)}h${2 * BAR}V${y(low[start]).toFixed(1)}h${-2 * BAR}`;
    } else {
      for (let k = start; k < i; k++) d += `${k === start ? 'M' : 'L'}${x(k).toFixed(1)} ${y(high[k]).toFixed(1)}`;
      for (let k = i - 1; k >= start; k--) d += `L${x(k).toFixed(1)} ${y(low[k]).toFixed(1)}`;
    }
    d += 'Z';
    start = -1;
  }
  return d;
}

/* c: title, height, text(v) of an axis label, range() -> [low, high], draw(x, y, group), rows(i) -> [[colour, name, text]], describe,
   room: from 0, the top, to 1, where it leaves room for words */
function chart(c) {
  const svg = s('svg', { 'aria-hidden': 'true' });
  const tip = h('div', { class: 'tip', 'aria-hidden': 'true' });
  const plot = h('div', { class: 'plot', tabindex: '0', role: 'slider', 'aria-label': `${c.title}: ${c.describe}. Arrow keys move through the steps.`,
    'aria-valuemin': firstStep, 'aria-valuemax': lastStep }, svg, tip);
  let width = 0, left = 0, marks = null, x = null;
  const bottom = 24, top = 8;
  const measure = () => { width = plot.clientWidth; };
  function draw() {
    if (!width) return;
    const range = c.range();
    const [low, high] = range[0] === range[1] ? [range[0] - 0.5, range[1] + 0.5] : range;
    const yTicks = ticks(low, high, c.height / 46);
    left = Math.max(...yTicks.map((v) => c.text(v).length)) * 6.6 + 12;
    const inner = Math.max(width - left - 8, 40);
    x = (i) => left + (X.length > 1 ? (X[i] - X[0]) / (lastStep - X[0]) : 0.5) * inner;
    const xs = (step) => left + (X.length > 1 ? (step - X[0]) / (lastStep - X[0]) : 0.5) * inner;
    const y = (v) => top + (1 - (v - low) / (high - low)) * (c.height - top - bottom);
    svg.setAttribute('viewBox', `0 0 ${width} ${c.height}`);
    svg.setAttribute('height', c.height);
    const g = s('g');
    for (const v of yTicks) {
      g.append(s('line', { class: 'grid-line', x1: left, x2: width - 8, y1: y(v), y2: y(v) }),
        s('text', { x: left - 8, y: y(v) + 4, 'text-anchor': 'end' }, c.text(v)));
    }
    for (const step of S.epoch_step.slice(1)) if (step > X[0]) g.append(s('line', { class: 'pass', x1: xs(step), x2: xs(step), y1: top,
      y2: c.height - bottom }));
    const phases = LATER.filter((p) => p.first_step > X[0] && p.first_step <= lastStep).map((p) => [xs(p.first_step), p.name]);
    for (const [at] of phases) g.append(s('line', { class: 'phase', x1: at, x2: at, y1: top, y2: c.height - bottom }));
    g.append(s('line', { class: 'axis', x1: left, x2: width - 8, y1: c.height - bottom, y2: c.height - bottom }));
    g.append(s('text', { x: left - 8, y: c.height - 7, 'text-anchor': 'end' }, 'step'));
    const inWhole = ticks(X[0], lastStep, Math.min(inner / 90, lastStep - X[0])).map(Math.round).filter((v, i, all) => v !== all[i - 1] && v >= X[0] && v <= lastStep);
    for (const v of inWhole) {
      const near = xs(v) > width - 26;
      g.append(s('text', { x: near ? width - 8 : xs(v), y: c.height - 7, 'text-anchor': near ? 'end' : 'middle' }, grouped(v)));
    }
    c.draw(x, y, g, { left, right: width - 8, top, bottom: c.height - bottom });
    for (const [at, name] of phases) {
      const before = at > width - 70;
      g.append(s('text', { class: 'phase-name', x: before ? at - 6 : at + 6, y: top + 12 + (c.room || 0) * (c.height - top - bottom),
        'text-anchor': before ? 'end' : 'start' }, name));
    }
    marks = s('g');
    svg.replaceChildren(g, marks);
    show(cursor, false);
    c.y = y;
  }
  function show(i, mine) {
    if (!x) return;
    marks.replaceChildren();
    tip.classList.toggle('on', i >= 0 && mine);
    if (i < 0) return;
    marks.append(s('line', { class: 'cursor', x1: x(i), x2: x(i), y1: top, y2: c.height - bottom }));
    for (const [name, value] of c.dots ? c.dots(i) : [])
      if (is(value)) marks.append(s('circle', { cx: x(i), cy: c.y(value), r: 4, fill: colour(name), stroke: 'var(--card)', 'stroke-width': 1.5 }));
    const rows = c.rows(i).filter((r) => r[2] !== '–');
    const title = `step ${grouped(X[i])}${S.epoch ? `, epoch ${S.epoch[i]}` : ''}`;
    plot.setAttribute('aria-valuenow', X[i]);
    plot.setAttribute('aria-valuetext', `${title}: ${rows.map((r) => `${r[1]} ${r[2]}`).join(', ')}`);
    if (!mine) return;
    tip.replaceChildren(h('div', {}, h('b', {}, title)),
      ...rows.map((r) => h('div', {}, r[0] ? swatch(r[0]) : null, h('span', {}, r[1]), h('span', {}, r[2]))));
    const room = plot.clientWidth - tip.offsetWidth, at = x(i) + 14 > room ? x(i) - tip.offsetWidth - 14 : x(i) + 14;
    tip.style.transform = `translate(${Math.max(0, Math.min(room, at))}px, 10px)`;
  }
  function nearest(clientX) {
    const at = clientX - plot.getBoundingClientRect().left;
    let low = 0, high = X.length - 1;
    while (high - low > 1) {
      const mid = (low + high) >> 1;
      if (x(mid) <= at) low = mid; else high = mid;
    }
    return at - x(low) < x(high) - at ? low : high;
  }
  const self = { measure, draw, show };
  const moveTo = (i) => { cursor = i; charts.forEach((other) => other.show(i, other === self)); };
  plot.addEventListener('pointermove', (e) => x && moveTo(nearest(e.clientX)));
  plot.addEventListener('pointerdown', (e) => x && moveTo(nearest(e.clientX)));
  plot.addEventListener('pointerleave', () => moveTo(-1));
  plot.addEventListener('blur', () => moveTo(-1));
  plot.addEventListener('keydown', (e) => {
    const jump = { ArrowLeft: -1, ArrowRight: 1, PageUp: -25, PageDown: 25, Home: -X.length, End: X.length }[e.key];
    if (e.key === 'Escape') moveTo(-1);
    if (!jump) return;
    e.preventDefault();
    const from = cursor < 0 ? (jump > 0 ? -1 : X.length) : cursor;
    moveTo(Math.max(0, Math.min(X.length - 1, from + jump)));
  });
  charts.push(self);
  const every = Math.max(1, Math.floor(X.length / 12)), sample = [];
  for (let i = X.length - 1; i >= 0; i -= every) sample.unshift(i);
  const names = c.rows(X.length - 1).map((r) => r[1]);
  return h('div', { class: 'card' }, h('div', { class: 'chart-head' }, h('h3', {}, c.title), c.side || (c.legend ? h('ul', { class: 'legend' },
    c.legend) : null)), plot,
    h('details', {}, h('summary', {}, 'As numbers'),
      table([right('step'), ...names.map((n) => right(n))], sample.map((i) => [grouped(X[i]), ...c.rows(i).map((r) => r[2])]), c.title)));
}
const item = (name, text) => h('li', {}, swatch(name), text);
const ruled = (text) => h('li', {}, h('span', { class: 'swatch rule', 'aria-hidden': 'true' }), text);

function curve(o) {
  const values = S[o.key], low = S[`${o.key}_min`], high = S[`${o.key}_max`], soft = smooth(values), noisy = X.length > 60;
  return chart({
    ...o, height: o.height || 230, describe: `from ${o.show(values.find(is))} to ${o.show([...values].reverse().find(is))} over ${plural(lastStep, 'step')}`,
    range: () => o.range ? o.range(extent([values])) : extent([values]),
    dots: (i) => [[o.colour, noisy ? soft[i] : values[i]]],
    draw: (x, y, g, box) => {
      const clip = `clip-${o.key}`;
      g.append(s('clipPath', { id: clip }, s('rect', { x: box.left, y: box.top - 4, width: box.right - box.left, height: box.bottom - box.top + 4 })));
      const inside = s('g', { 'clip-path': `url(#${clip})` });
      if (low && high && S.lines > X.length) inside.append(s('path', { d: band(low, high, x, y), fill: colour(o.colour), 'fill-opacity': 0.16 }));
      if (noisy) inside.append(s('path', { d: line(values, x, y), fill: 'none', stroke: colour(o.colour), 'stroke-opacity': 0.32, 'stroke-width': 1 }));
      inside.append(s('path', { d: line(noisy ? soft : values, x, y), fill: 'none', stroke: colour(o.colour), 'stroke-width': 2, 'stroke-linejoin': 'round' }));
      const main = noisy ? soft : values;
      main.forEach((v, i) => {         // a value without neighbours has no line
        if (is(v) && !is(main[i - 1]) && !is(main[i + 1])) inside.append(s('circle', { class: 'alone', cx: x(i), cy: y(v), r: 3, fill: colour(o.colour) }));
      });
      g.append(inside);
      if (is(o.level) && y(o.level) >= box.top - 1 && y(o.level) <= box.bottom)
        g.append(s('line', { x1: box.left, x2: box.right, y1: y(o.level), y2: y(o.level), stroke: 'var(--soft)', 'stroke-width': 1.5,
          'stroke-dasharray': '5 4' }));
    },
    rows: (i) => [[o.colour, o.name, o.show(values[i])], ...(low && high && low[i] !== high[i] ? [[null, 'range',
      `${o.show(low[i])} – ${o.show(high[i])}`]] : []),
      ...(o.more ? o.more(i) : [])],
    legend: [item(o.colour, noisy ? `${o.name} (smoothed)` : o.name), is(o.level) ? ruled(`${o.levelName} ${o.show(o.level)}`) : null],
  });
}
