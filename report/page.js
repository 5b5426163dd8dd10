/* The run page, second half: its sections, from the head down. page_charts.js stands above it in the same function. */
/* ---- the head ---- */
const STATUS = { completed: ['good', 'Completed'], failed: ['bad', 'Failed'], stopped: ['warn', 'Stopped'], running: ['', 'Running'] };
const anyRestart = R.restart_count || 0;
const world = R.world || { sites: [], ranks: 0, lanes: 0 };
function head() {
  const [tone, word] = STATUS[R.status] || ['', R.status || 'unknown'];
  const facts = [`${plural(R.steps, 'step')}${is(R.epochs) ? ` (${number(R.epochs, 3).replace(/\.?0+$/, '')} epochs)` : ''} in ${span(R.wall_seconds)}`,
    `${plural(world.sites.length, 'site')}, ${plural(world.ranks, 'rank')}, ${plural(world.lanes, 'lane')}`,
    `${R.status === 'running' ? 'as of' : 'ended'} ${when(D.events.length && R.status !== 'running' ? D.events[D.events.length - 1].time : D.made)}`];
  return [h('div', { class: 'brand' }, s('svg', { width: 26, height: 16, viewBox: '0 0 26 16', 'aria-hidden': 'true', fill: 'none', stroke: 'currentColor',
    'stroke-width': 2 },
    s('path', { d: 'M1 4h24M1 15v-3a4 4 0 0 1 8 0v3M9 15v-3a4 4 0 0 1 8 0v3M17 15v-3a4 4 0 0 1 8 0v3' })), 'Viaduct run report'),
  h('div', { class: 'head' }, h('h1', {}, R.name || 'Run'), h('span', { class: `pill ${tone}` }, word)),
  h('p', { class: 'soft' }, facts.join(' · '))];
}
function tiles() {
  const out = [], f = R.final || {}, w = R.wan || {};
  const tile = (label, value, unit, under) => out.push(h('div', {}, h('dt', {}, label), h('dd', {}, value, unit ? h('small', {}, ` ${unit}`) : null),
    under ? h('p', { class: 'under' }, under) : null));
  if (is(f.eval_accuracy)) tile('Accuracy', (f.eval_accuracy * 100).toFixed(2), '%', 'whole evaluation set');
  if (is(f.eval_loss)) tile('Evaluation loss', number(f.eval_loss), null, is(f.train_loss) ? `training ${number(f.train_loss)}, last pass` : null);
  else if (is(f.train_loss)) tile('Training loss', number(f.train_loss), null, 'mean of the last pass');
  if (is(R.samples_per_second)) tile('Throughput', grouped(R.samples_per_second), 'samples/s', `${grouped(R.samples)} samples`);
  if (R.ledger) {
    const wrong = R.ledger.missing + R.ledger.duplicated;
    tile('Sample ledger', wrong ? grouped(wrong) : 'exact', wrong ? 'wrong' : null,
      wrong ? `${grouped(R.ledger.missing)} missing, ${grouped(R.ledger.duplicated)} doubled`
      : `${plural(R.ledger.passes, 'pass', 'passes')}, each sample once`);
  }
  if (world.sites.length > 1 && is(w.bytes_sent)) tile('Between sites', ...bytes(w.bytes_sent).split(' '),
    w.rounds ? `${bytes(w.bytes_sent / w.rounds)} a step` : null);
  tile('Restarts', grouped(anyRestart), null, anyRestart ? `${plural((R.restarts || []).reduce((n, r) => n + (r.lost_steps || 0), 0), 'step')} lost`
    : 'nothing died');
  return h('dl', { class: 'card tiles' }, out);
}
const failure = () => R.error ? h('div', { class: 'card failure', role: 'alert' }, h('h3', {}, 'Why it ended'), h('p', {}, R.error)) : null;

/* ---- learning ---- */
function learning() {
  if (!X.length) return section('Learning', h('div', { class: 'card soft' }, 'No step was finished, so there is nothing to draw.'));
  const f = R.final || {};
  const loss = curve({ key: 'loss', title: 'Loss', name: 'loss', colour: 'compute', show: (v) => number(v), text: (v) => number(v, 3).replace(/\.?0+$/,
    '') || '0', level: f.eval_loss,
    levelName: 'evaluation', range: (e) => [Math.min(e[0], 0), e[1]], more: (i) => S.lr ? [[null, 'learning rate', number(S.lr[i], 3)]] : [] });
  const accuracy = S.accuracy && curve({ key: 'accuracy', title: 'Accuracy', name: 'on each step\u2019s samples', colour: 'inside', show: (v) => percent(v),
    text: (v) => `${Math.round(v * 100)} %`,
    level: f.eval_accuracy, levelName: 'evaluation', room: 0.5, range: (e) => [Math.max(0, Math.floor(e[0] * 10) / 10), 1] });
  return section('Learning', h('div', { class: accuracy ? 'grid' : '' }, loss, accuracy));
}

/* ---- where the time goes ---- */
function time() {
  if (!X.length) return null;
  const speed = S.rate && curve({ key: 'rate', title: 'Throughput', name: 'samples/s', colour: 'compute', show: (v) => is(v) ? grouped(v) : '–',
    text: (v) => grouped(v), height: 200, room: 0.5,
    range: (e) => [0, e[1]] });
  const there = PARTS.filter(([key]) => S[key]);
  if (!there.length) return speed && section('Speed', speed);
  let suffix = '';
  const column = (key) => S[key + suffix] || S[key];
  const mean = (key) => { const v = (S[key] || []).filter(is); return v.length ? v.reduce((a, b) => a + b, 0) / v.length : null; };
  const total = there.reduce((sum, [key]) => sum + (mean(key) || 0), 0);
  const tops = () => {                 // of each part: what lies below it, and its top
    let below = X.map(() => 0);
    return there.map(([key]) => {
      const floor = below, roof = smooth(column(key)).map((v, i) => floor[i] + (v || 0));
      below = roof;
      return [floor, roof];
    });
  };
  const choice = h('div', { class: 'choice', role: 'group', 'aria-label': 'Which ranks' });
  const area = chart({
    title: 'A step\u2019s time, by part', height: innerWidth > 720 ? 310 : 240, text: (v) => span(v).replace(/\.0+ /, ' '), side: choice,
    describe: there.map(([key, name]) => `${name} ${percent(mean(key) / total, 0)}`).join(', '),
    range: () => [0, Math.max(...tops()[there.length - 1][1]) * 1.04],
    draw: (x, y, g) => tops().forEach(([floor, roof], k) => g.append(s('path', { d: band(floor, roof, x, y), fill: colour(there[k][0]),
      'fill-opacity': 0.88 }))),
    rows: (i) => [...there.map(([key, name]) => [key, name, span(column(key)[i])]),
      [null, suffix ? 'slowest of each' : 'together', span(there.reduce((sum, [key]) => sum + (column(key)[i] || 0), 0))]],
  });
  const self = charts[charts.length - 1];
  for (const [value, text] of [['', 'Mean of ranks'], ['_max', 'Slowest rank']]) {
    const button = h('button', { type: 'button', 'aria-pressed': value === suffix }, text);
    button.addEventListener('click', () => {
      suffix = value;
      for (const b of choice.children) b.setAttribute('aria-pressed', b === button);
      self.draw();
    });
    choice.append(button);
  }
  const share = h('div', { class: 'card' }, h('div', { class: 'chart-head' }, h('h3', {}, `On average ${span(total)} a step`)),
    h('div', { class: 'bar', role: 'img', 'aria-label': there.map(([key, name]) => `${name} ${percent(mean(key) / total, 1)}`).join(', ') },
      there.map(([key]) => h('i', { style: `background:${colour(key)};flex:${Math.max(mean(key) / total, 0.0005)}` }))),
    table(['Part', right('Mean'), right('Share'), right('Slowest rank')], there.map(([key, name, what]) => [
      [swatch(key), name, h('div', { class: 'what' }, what)], span(mean(key)), percent(mean(key) / total, 1), span(mean(`${key}_max`))]),
    'Parts of a step'));
  const wait = mean('between') !== null && mean('between') / total, words = [];
  if (is(D.plan_step_seconds)) words.push(`The plan predicted ${span(D.plan_step_seconds)} a step.`);
  if (wait > 0.4 && world.sites.length > 1) words.push('More than 40 % of the time is spent between the sites: a larger batch, fewer bytes or a faster link would help most.');
  return section('Where the time goes', words.length ? h('p', { class: 'lede' }, words.join(' ')) : null,
    h('div', { class: 'stack' }, h('div', { class: 'grid' }, area, share), speed));
}

/* ---- topology ---- */
function siteBox(site, shards, x, y, width) {
  const g = s('g', { transform: `translate(${x} ${y})` });
  const perRow = Math.max(1, Math.floor((width - 32 + 5) / 19)), shown = Math.min(site.ranks, perRow * 3), rankRows = Math.max(1, Math.ceil(shown / perRow));
  const shardTop = 70 + rankRows * 19 + 22, perShardRow = Math.max(1, Math.floor((width - 32 + 6) / 44)), shardRows = Math.ceil(shards.length / perShardRow);
  const height = shards.length ? shardTop + shardRows * 32 + 8 : 70 + rankRows * 19 + 10;
  g.append(s('rect', { class: 'site', width, height, rx: 12 }), s('text', { class: 'title', x: 16, y: 29 },
    site.name.length > 26 ? `${site.name.slice(0, 25)}…` : site.name),
    s('text', { class: 'label', x: 16, y: 58 }, plural(site.ranks, 'rank')));
  for (let r = 0; r < shown; r++) g.append(s('rect', { class: 'rank', x: 16 + (r % perRow) * 19, y: 68 + Math.floor(r / perRow) * 19, width: 14, height: 14,
    rx: 3.5 }));
  if (shards.length) g.append(s('text', { class: 'label', x: 16, y: shardTop - 2 }, 'shards held'));
  shards.forEach((c, i) => {
    const left = 16 + (i % perShardRow) * 44, at = shardTop + 7 + Math.floor(i / perShardRow) * 32;
    g.append(s('rect', { class: c.primary ? 'shard primary' : 'shard', x: left, y: at, width: 38, height: 24, rx: 7 },
      s('title', {}, `shard ${c.shard}, ${c.primary ? 'primary' : 'replica'}`)),
    s('text', { class: c.primary ? 'on' : 'off', x: left + 19, y: at + 16.5, 'text-anchor': 'middle' }, String(c.shard)));
  });
  return { g, height };
}
function arrow(x1, y1, x2, y2) {
  const a = Math.atan2(y2 - y1, x2 - x1), tip = (t) => `${(x2 - 9 * Math.cos(a + t)).toFixed(1)},${(y2 - 9 * Math.sin(a + t)).toFixed(1)}`;
  return [s('line', { class: 'link', x1, y1, x2: x2 - 6 * Math.cos(a), y2: y2 - 6 * Math.sin(a) }), s('polygon', { class: 'tipmark',
    points: `${x2},${y2} ${tip(0.45)} ${tip(-0.45)}` })];
}
function layout(sites, width) {
  const g = s('g'), narrow = width < 620, sent = (i) => is(sites[i].sent) ? bytes(sites[i].sent) : 'not measured';
  const per = (i) => is(sites[i].sent) && R.wan && R.wan.rounds ? `${bytes(sites[i].sent / R.wan.rounds)} a step` : '';
  if (sites.length === 1) {
    const box = siteBox(sites[0], sites[0].shards, 0.5, 0.5, Math.min(width - 1, 360));
    g.append(box.g);
    return [g, box.height + 1];
  }
  if (sites.length === 2 && !narrow) {
    const w = Math.min(340, (width - 240) / 2), from = (width - 2 * w - 240) / 2 + 0.5, gap = from + w;
    const a = siteBox(sites[0], sites[0].shards, from, 0.5, w), b = siteBox(sites[1], sites[1].shards, gap + 240, 0.5, w);
    const mid = Math.max(a.height, b.height) / 2;
    g.append(a.g, b.g, ...arrow(gap + 12, mid - 24, gap + 228, mid - 24), ...arrow(gap + 228, mid + 24, gap + 12, mid + 24));
    [[0, mid - 34, mid - 8], [1, mid + 43, mid + 60]].forEach(([i, y1, y2]) => g.append(s('text', { class: 'bytes', x: gap + 120, y: y1,
      'text-anchor': 'middle' }, sent(i)),
      s('text', { class: 'label', x: gap + 120, y: y2, 'text-anchor': 'middle' }, per(i))));
    return [g, Math.max(a.height, b.height, mid + 70) + 1];
  }
  const columns = narrow ? 1 : Math.min(sites.length, 4), w = narrow ? width - 1 : (width - (columns - 1) * 20 - 1) / columns;
  let top = 0.5, below = 0;
  sites.forEach((site, i) => {
    const column = i % columns;
    if (column === 0 && i) { top = below + 14; }
    const box = siteBox(site, site.shards, 0.5 + column * (w + 20), top, w), x = 16 + column * (w + 20), end = top + box.height;
    g.append(box.g, s('text', { class: 'bytes', x: x + 18, y: end + 24 }, sent(i)), s('text', { class: 'label', x: x + 18, y: end + 41 },
      `sent to other sites${per(i) ? `, ${per(i)}` : ''}`),
      ...arrow(x + 4, end + 6, x + 4, end + 40));
    below = Math.max(column ? below : 0, end + 48);
  });
  return [g, below];
}
function topology() {
  const t = D.topology, plan = D.plan_shards || [];
  const sites = (t ? t.sites : world.sites).map((site) => ({ name: String(site.name), ranks: site.ranks || 0, sent: site.wan_sent_bytes, shards: [] }));
  if (!sites.length) return null;
  const of = (name) => sites.find((x) => x.name === name);
  for (const shard of t ? t.shards : []) for (const c of shard.copies) if (of(c.site)) of(c.site).shards.push({ shard: shard.shard, primary: c.primary });
  if (!t) for (const shard of plan) {
    for (const [c, primary] of [[shard.primary, true], ...(shard.replicas || []).map((r) => [r, false])])
      if (c && of(c.site)) of(c.site).shards.push({ shard: shard.shard, primary });
  }
  const known = sites.some((x) => is(x.sent)) && sites.length > 1;
  const held = (x) => x.shards.map((c) => `${c.shard}${c.primary ? ' (primary)' : ''}`).join(', ');
  const words = sites.map((x) => [`${x.name}: ${plural(x.ranks, 'rank')}`, x.shards.length ? `shards ${held(x)}` : 'no shards',
    ...(known ? [`${bytes(x.sent)} sent to other sites`] : [])].join(', '));
  const svg = s('svg', { class: 'map', role: 'img', 'aria-label': words.join('; ') });
  const card = h('div', { class: 'card' }, svg);
  let width = 0;
  charts.push({ show() {}, measure() { width = card.clientWidth - parseFloat(getComputedStyle(card).paddingLeft) * 2; }, draw() {
    if (width <= 0) return;
    const [g, height] = layout(sites, width);
    svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
    svg.setAttribute('width', width);
    svg.setAttribute('height', height);
    svg.style.display = 'block';
    svg.replaceChildren(g);
  } });
  const copies = sites.some((x) => x.shards.length), embedded = t && t.embedded;
  card.append(h('ul', { class: 'legend', style: 'margin-top:14px' }, item('compute', 'rank'), copies ? item('between', 'shard, primary') : null,
    copies && sites.some((x) => x.shards.some((c) => !c.primary)) ? h('li', {}, h('span', { class: 'swatch', style: 'border:1.5px solid var(--between)',
      'aria-hidden': 'true' }), 'shard, replica') : null,
    embedded ? h('li', {}, 'shards live inside the ranks') : null, sites.length === 1 ? h('li', {}, 'one site: nothing crosses a wide-area link') : null));
  if (!plan.length) return section('Sites', card);
  const rows = plan.map((p) => [String(p.shard), grouped(p.blocks), bytes(p.bytes), bytes(p.memory_bytes)]);
  return section('Sites', card, h('details', {}, h('summary', {}, 'Sizes of the shards, as planned'),
    h('div', { class: 'card', style: 'margin-top:8px' }, table(['Shard', right('Blocks'), right('Weights'), right('Memory of a copy')], rows, 'Shards'))));
}

/* ---- events ---- */
const TONE = [[/dead|lost|fail|damaged/, 'checkpoint'], [/anomaly/, 'between'], [/restart|back|relaunch|resumed/, 'inside'], [/checkpoint|published/,
  'data'], [/./, 'compute']];
const tone = (kind) => TONE.find(([pattern]) => pattern.test(String(kind)))[1];
const routine = (e) => /^(view|published|checkpoint)$/.test(e.event);
function timeline(list) {
  const at = list.map((e) => Date.parse(e.time)).filter(is), from = Math.min(...at), to = Math.max(...at);
  if (at.length < 2 || from === to) return null;
  const box = h('div', { class: 'plot', style: 'cursor:default' }), svg = s('svg', { role: 'img',
    'aria-label': `${plural(list.length, 'event')} over ${span((to - from) / 1000)}` });
  box.append(svg);
  let width = 0;
  charts.push({ show() {}, measure() { width = box.clientWidth; }, draw() {
    const x = (t) => 10 + (t - from) / (to - from) * (width - 20), lanes = ['compute', 'data', 'inside', 'between', 'checkpoint'];
    const used = lanes.filter((name) => list.some((e) => tone(e.event) === name)), height = used.length * 18 + 30;
    if (!width) return;
    svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
    svg.setAttribute('height', height);
    svg.replaceChildren(...used.map((_, k) => s('line', { class: 'grid-line', x1: 10, x2: width - 10, y1: 12 + k * 18, y2: 12 + k * 18 })),
      ...list.filter((e) => is(Date.parse(e.time))).map((e) => s('circle', { cx: x(Date.parse(e.time)).toFixed(1), cy: 12 + used.indexOf(tone(e.event)) * 18,
        r: routine(e) ? 3.5 : 5,
        fill: colour(tone(e.event)), 'fill-opacity': 0.9, stroke: 'var(--card)' }, s('title', {}, `${clock(e.time)} ${e.event}, ${e.who}: ${e.text}`))),
      s('text', { x: 10, y: height - 4 }, clock(list[0].time)), s('text', { x: width - 10, y: height - 4, 'text-anchor': 'end' },
        `${clock(list[list.length - 1].time)} (${span((to - from) / 1000)})`));
  } });
  const kinds = [['compute', 'start, view, end'], ['data', 'checkpoint'], ['inside', 'back again'], ['between', 'anomaly'], ['checkpoint', 'death or damage']];
  return h('div', {}, box, h('ul', { class: 'legend', style: 'margin-top:10px' },
    kinds.filter(([name]) => list.some((e) => tone(e.event) === name)).map(([name, text]) => item(name, text))));
}
function events() {
  const list = D.events, restarts = R.restarts || [], out = [];
  if (restarts.length) {
    const rows = restarts.map((r) => [h('span', { class: 'keep' }, r.who), grouped(r.at_step), r.cause, grouped(r.lost_steps || 0),
      is(r.seconds) ? span(r.seconds) : 'not yet']);
    out.push(h('div', { class: 'card' }, h('div', { class: 'chart-head' }, h('h3', {}, plural(anyRestart, 'restart'))), table([keep('Who'), right('At step'),
      wide('Cause'), right('Steps lost'), right('Back after')], rows, 'Restarts', 'scroll rows tall'),
      anyRestart > restarts.length ? h('p', { class: 'soft' }, `The newest ${restarts.length}; all stand in report.json.`) : null));
  }
  if (list.length) {
    const body = h('div', { class: 'scroll tall rows', tabindex: '0', role: 'region', 'aria-label': 'Events' }), main = list.filter((e) => !routine(e));
    const choice = h('div', { class: 'choice', role: 'group', 'aria-label': 'Which events' });
    const fill = (shown) => body.replaceChildren(table([keep('Time'), keep('Event'), keep('Who'), right('Step'), wide('What')], shown.map((e) => [clock(e.time),
      [h('span', { class: 'mark', style: `background:${colour(tone(e.event))}`, 'aria-hidden': 'true' }),
        e.event], e.who, grouped(e.step), e.text]), 'Events').firstChild);
    const options = main.length > 2 && main.length < list.length ? [[`Important (${main.length})`, main], [`All (${list.length})`,
      list]] : [[`All (${list.length})`, list]];
    options.forEach(([text, shown], k) => {
      const button = h('button', { type: 'button', 'aria-pressed': k === 0 }, text);
      button.addEventListener('click', () => {
        for (const b of choice.children) b.setAttribute('aria-pressed', b === button);
        fill(shown);
      });
      choice.append(button);
    });
    fill(options[0][1]);
    out.push(h('div', { class: 'card stack' }, h('div', { class: 'chart-head' }, h('h3', {}, 'Timeline'), options.length > 1 ? choice : null),
      timeline(list), body,
      D.event_count > list.length ? h('p', { class: 'soft' },
        `${grouped(D.event_count - list.length)} older or routine events are left out; all stand in events.jsonl.`) : null));
  }
  return out.length ? section('Events', h('div', { class: 'stack' }, out)) : null;
}

/* ---- results, lineage ---- */
function results() {
  const e = R.export || {}, made = [['float', 'Float'], ['quantized', 'Quantized']].filter(([key]) => e[key]), out = [];
  if (made.length) {
    const rows = made.map(([key, name]) => {
      const v = e[key], l = v.latency_ms || {};
      return [name, percent(v.accuracy), bytes(v.bytes), is(l.p50) ? `${number(l.p50, 3)} ms` : '–', is(l.p99) ? `${number(l.p99, 3)} ms` : '–', h('span',
        { class: 'mono' }, v.path || '–')];
    });
    const l = (e[made[0][0]].latency_ms) || {};
    out.push(h('div', { class: 'card' }, h('div', { class: 'chart-head' }, h('h3', {}, 'Exported model'),
      e.gate ? h('span', { class: `pill ${e.gate.passed ? 'good' : 'bad'}` }, e.gate.passed ? 'gate passed' : 'gate failed') : null),
    table(['Kind', right('Accuracy'), right('Size'), right('Latency p50'), right('p99'), wide('File')], rows, 'Exported models'),
    h('p', { class: 'soft', style: 'margin-top:8px;font-size:12.5px' },
      [is(l.batch) ? `Latency at batch ${l.batch} on ${plural(l.threads || 1, 'thread')}.` : '',
      e.float && e.float.sparsity > 0.005 ? `${percent(e.float.sparsity, 0)} of the weights of convolutions and dense layers are pruned.` : '',
      e.gate && is(e.gate.drop) ? `Quantized against float: accuracy ${points(-e.gate.drop)} points${is(e.gate.low95) ? `, lower 95 % bound ${points(e.gate.low95)}`
        : ''}${is(e.gate.max_drop) ? `, allowed ${points(-e.gate.max_drop)}` : ''}.` : ''].filter(Boolean).join(' '))));
  }
  const facts = [], fact = (name, ...value) => facts.push(h('dt', {}, name), h('dd', {}, ...value));
  const l = R.ledger;
  if (l) fact('Sample ledger', `${plural(l.passes, 'pass', 'passes')}, ${grouped(l.missing)} missing, ${grouped(l.duplicated)} doubled`);
  if (R.checkpoint) {
    fact('Checkpoint', h('span', { class: 'mono' }, R.checkpoint.path), ` (step ${grouped(R.checkpoint.step)})`);
    fact('Verified at', (R.checkpoint.verified_sites || []).join(', ') || 'no site yet');
  }
  if (facts.length) out.push(h('div', { class: 'card' }, h('div', { class: 'chart-head' }, h('h3', {}, 'Ledger and checkpoint')), h('dl', { class: 'facts' },
    facts)));
  return out.length ? section('Results', h('div', { class: 'stack' }, out)) : null;
}
function lineage() {
  const l = R.lineage || {}, facts = [];
  const fact = (name, value) => has(value) && facts.push(h('dt', {}, name), h('dd', { class: 'mono' }, String(value)));
  fact('Weights sha256', R.weights_sha256);
  fact('Running statistics sha256', R.state_sha256);
  fact('Spec sha256', l.spec_sha256);
  fact('Training data sha256', l.data_sha256);
  fact('Commit', l.commit);
  for (const [name, version] of Object.entries(l.versions || {})) fact(`Version of ${name}`, version);
  return facts.length ? section('Lineage', h('div', { class: 'card' }, h('dl', { class: 'facts' }, facts))) : null;
}

/* ---- together ---- */
const page = document.getElementById('page');
page.append(...[...head(), failure(), tiles(), learning(), time(), topology(), events(), results(), lineage(),
  h('p', { class: 'foot' }, [`Written ${when(D.made)} from report.json, metrics.jsonl and events.jsonl.`,
    S.lines > X.length ? `Each point of a curve stands for ${number(S.lines / X.length, 2)} steps on average.` : '', 'This file is whole: it loads nothing.'].join(' '))].filter(Boolean));
/* All widths are read before anything is drawn: else each drawing would have the browser lay out the whole page again. */
const drawAll = () => {
  charts.forEach((c) => c.measure());
  charts.forEach((c) => c.draw());
};
drawAll();
let drawn = page.clientWidth;
new ResizeObserver(() => {
  if (page.clientWidth === drawn) return;
  drawn = page.clientWidth;
  drawAll();
}).observe(page);
document.documentElement.dataset.readyMs = Math.round(performance.now());
