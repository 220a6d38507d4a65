/* Panel 2 of the page "Walk the boundary": the rules of arlib.claims once more, for a reader's choice.
   A test compares every verdict, effect and interval with the library's, for every choice there is. */
(() => {
  'use strict';
  const panel = document.getElementById('ar-judge');
  if (!panel) return;
  const data = JSON.parse(document.getElementById('ar-judge-data').textContent);
  const {add, number, ticks, frame, whenResized} = window.arChart;
  const {mean, share, quantile, median, pageTrend} = window.arStatistics;
  const interval = (values, level) => window.arStatistics.interval(values, data.student[level]);

  // --- evidence and verdict, as arlib.claims.evidence and .decide -------------------------------

  // What one item says: effect over seeds, trend over strengths, shares of layers.
  function gather(item, {strength, seeds, level}) {
    const out = data.collapsed.filter(([, seed]) => seeds.includes(seed)).map(([s]) => s);
    let runs = data.tables[item.table]
      .map(([s, seed, ...values]) => ({s, seed, values}))
      .filter(run => seeds.includes(run.seed) && !out.includes(run.s));
    if (item.log) runs = runs.map(run => ({...run, values: run.values.map(v => (v > 0 ? Math.log(v) : null))}));
    if (item.layers) {  // a layer that some run lacks is left out
      const whole = (runs[0]?.values || []).map((_, i) => runs.every(run => run.values[i] !== null));
      runs = runs.map(run => ({...run, values: run.values.filter((_, i) => whole[i])}));
    } else runs = runs.filter(run => run.values[0] !== null);
    const of = (s, seed) => runs.find(run => run.s === s && run.seed === seed)?.values;
    const common = seeds.filter(seed => of(0, seed) && of(strength, seed));
    if (common.length < data.seeds_needed || !runs[0].values.length)
      return {problem: `At least ${data.seeds_needed} seeds at AR strengths 0 and ${strength} are needed.`};
    const used = [...new Set(runs.map(run => run.s))].sort((a, b) => a - b)
      .filter(s => common.every(seed => of(s, seed)));
    const grid = new Map(used.map(s => [s, common.map(seed => of(s, seed))]));
    const minus = (a, b) => a.map((value, i) => value - b[i]);
    // paired in seed and layer before the median: what two networks have in common cancels
    const between = (start, end) => common.map((_, i) => median(minus(grid.get(end)[i], grid.get(start)[i])));
    const differences = between(0, strength), first = used[1], last = used.at(-1);
    // centred on the mean over strengths, so that strengths are alike when nothing happens
    const levels = common.map((_, i) => {
      const centre = grid.get(0)[i].map((_, layer) => mean(used.map(s => grid.get(s)[i][layer])));
      return used.map(s => median(minus(grid.get(s)[i], centre)));
    });
    const atZero = mean(grid.get(0).map(median));
    const evidence = {
      seeds: common, strengths: used, differences, effect: interval(differences, level),
      onset: interval(between(0, first), level),
      dose: last > first ? interval(between(first, last), level) : {sign: 0},
      trend: pageTrend(levels), atZero: item.log ? Math.exp(atZero) : atZero,
    };
    if (!item.layers) return evidence;
    const apart = common.map((_, i) => minus(grid.get(strength)[i], grid.get(0)[i]));
    const pairs = used.flatMap(s => grid.get(s).flatMap((row, i) => grid.get(s).slice(i + 1).map(other => minus(row, other))));
    return {
      ...evidence,
      smaller: apart.map(row => share(row, d => d < 0)), larger: apart.map(row => share(row, d => d > 0)),
      floor: Math.max(...pairs.flatMap(row => [share(row, d => d < 0), share(row, d => d > 0)])),
      noise: quantile(pairs.map(row => Math.abs(median(row))), 0.95),
    };
  }

  // One statistic: its interval excludes 0 and the trend agrees; of layers, most must move.
  function judge(evidence, expected, {protocol, level}) {
    if (evidence.problem) return 'not measured';
    const {effect: {sign, mean: size}, trend, smaller, larger, floor, noise} = evidence;
    let decided = sign !== 0 && trend.p < level && trend.sign === sign;
    if (smaller) {
      const least = Math.min(...(sign < 0 ? smaller : larger));
      decided &&= protocol === 2 ? least > 0.5 && Math.abs(size) > noise : least > Math.max(0.5, floor);
    }
    return !decided ? 'undecided' : sign === expected ? 'supported' : 'contradicted';
  }

  // The verdict of an item; a claim's primary statistic is judged with its twin.
  function answer(item, choice) {
    const own = gather(item, choice), expected = item.expected || 1;
    const twin = item.twin === null ? null : gather(data.items[item.twin], choice);
    let verdict = judge(own, expected, choice);
    if (!own.problem) {
      const against = twin && !twin.problem && own.effect.sign * item.twin_follows * twin.effect.sign < 0;
      if (against || own.onset.sign * own.dose.sign < 0) verdict = 'mixed';
      else if (verdict === 'supported' && twin && item.scale_twin &&
        ['undecided', 'contradicted'].includes(judge(twin, expected, choice))) verdict = 'supported, scale only';
      if (item.needs_gap && choice.protocol === 2 && own.atZero < data.least_gap) verdict = 'no gap to regularise';
    }
    // without a declared direction there is nothing to support
    if (!item.expected) verdict = {supported: 'rises', contradicted: 'falls'}[verdict] || verdict;
    return {...own, verdict};
  }

  // --- the panel --------------------------------------------------------------------------------

  const select = name => panel.querySelector(`select[name="ar-${name}"]`);
  const [statistic, setting] = [select('statistic'), select('setting')];
  const said = panel.querySelector('.ar-said'), reasons = panel.querySelector('.ar-reasons');
  const boxes = [panel.querySelector('.ar-chart')];
  const families = [];  // items that differ in operator or attack only

  data.items.forEach(item => {
    const known = families.find(f => f.claim === item.claim && f.label === item.label);
    if (known) known.items.push(item);
    else families.push({claim: item.claim, title: item.title, label: item.label, items: [item]});
  });

  function fill() {
    let group;
    families.forEach((family, index) => {
      const label = `${family.claim} ${family.title}`;
      if (group?.label !== label) {
        group = document.createElement('optgroup');
        group.label = label;
        statistic.append(group);
      }
      const decides = family.items.some(item => item.role === 'primary') ? ' (decides)' : '';
      group.append(new Option(family.label + decides, index));
    });
  }

  function fillSettings() {
    const {items} = families[statistic.value];
    setting.replaceChildren(...items.map((item, i) => new Option(item.setting || '–', i)));
    setting.disabled = items.length < 2;
  }

  // An effect with its interval, written as the book writes it.
  function effectText(item, {mean: centre, low, high}) {
    if (item.log) {
      const [a, b, c] = [centre, low, high].map(value => number(Math.exp(value)));
      return `× ${a} [${b}, ${c}]`;
    }
    const [scale, digits, unit] = item.percent ? [100, 1, ' points'] : [1, 3, ''];
    const [a, b, c] = [centre, low, high].map(value => {
      const text = (scale * value).toFixed(digits);
      return (text.startsWith('-') ? text : `+${text}`).replace('-', '−');
    });
    return `${a}${unit} [${b}, ${c}]`;
  }
  const pText = p => (p < 0.001 ? 'p < 0.001' : `p = ${p.toFixed(p < 0.1 ? 3 : 2)}`);
  const per = values => values.map(value => `${Math.round(100 * value)} %`).join(', ');

  function why(item, found, {protocol}) {
    if (found.problem) return [found.problem];
    const lines = [
      `Trend over strengths ${found.strengths.join(', ')}: ${pText(found.trend.p)}, ` +
      `${['falling', 'level', 'rising'][found.trend.sign + 1]}.`,
      item.expected ? `Expected: it ${item.expected > 0 ? 'rises' : 'falls'}.`
        : 'No direction was declared for this statistic, so it supports nothing; it is shown beside the claim.',
    ];
    if (found.smaller) {
      lines.push(`Smaller in ${per(found.smaller)} of the layers (one number a seed). ` + (protocol === 1
        ? `Protocol 1 asks for more than between two seeds of one strength: ${per([found.floor])}.`
        : `Protocol 2 asks for a median that moves further than between two such seeds: ` +
          (item.log ? `a factor of ${number(Math.exp(found.noise))}.` : `${number(found.noise)}.`)));
    }
    if (item.twin !== null) lines.push(`Judged with its twin, ${data.items[item.twin].label}.`);
    return lines;
  }

  // Differences of the seeds as dots, their mean and its interval; on a log scale for factors.
  function draw(item, found) {
    if (found.problem) return boxes[0].replaceChildren();
    const {low, high, mean: centre} = found.effect;
    const values = [0, low, high, ...found.differences];
    const pad = 0.06 * (Math.max(...values) - Math.min(...values));
    const x = [Math.min(...values) - pad, Math.max(...values) + pad];
    const unit = item.percent ? 100 : 1;
    const marks = item.log
      ? ticks(Math.exp(x[0]), Math.exp(x[1]), 6).filter(v => v > 0).map(v => [Math.log(v), `× ${number(v)}`])
      : ticks(unit * x[0], unit * x[1], 6).map(v => [v / unit, number(v)]);
    const label = item.log ? 'factor to AR strength 0' : `difference to AR strength 0${item.percent ? ' (points)' : ''}`;
    const {inside, X, top, base} = frame(boxes[0], {
      height: 130, x, marks: {x: marks}, xLabel: label, title: 'Effect of each seed, mean and interval',
      about: `Effect ${effectText(item, found.effect)}; seeds ${found.differences.map(d => number(item.log ? Math.exp(d) : unit * d)).join(', ')}.`,
    });
    add(inside, 'line', {x1: X(0), x2: X(0), y1: top, y2: base, class: 'ar-zero'});
    found.differences.forEach(d => add(inside, 'circle', {cx: X(d), cy: top + 16, r: 4, class: 'ar-seed'}));
    add(inside, 'line', {x1: X(low), x2: X(high), y1: top + 42, y2: top + 42, class: 'ar-interval'});
    add(inside, 'circle', {cx: X(centre), cy: top + 42, r: 5, class: 'ar-mean'});
  }

  function show() {
    const item = families[statistic.value].items[setting.value];
    const choice = {
      strength: Number(select('strength').value), protocol: Number(select('protocol').value), level: select('level').value,
      seeds: [...panel.querySelectorAll('input[name="ar-seed"]:checked')].map(box => Number(box.value)),
    };
    const found = answer(item, choice);
    const effect = found.problem ? '' : ` ${effectText(item, found.effect)}, ${100 - 100 * choice.level} % interval over ${found.seeds.length} seeds.`;
    const verdict = document.createElement('strong');
    verdict.textContent = found.verdict;
    said.replaceChildren(verdict, `.${effect}`);
    said.dataset.verdict = found.verdict;
    reasons.replaceChildren(...why(item, found, choice).map(text => {
      const line = document.createElement('li');
      line.textContent = text;
      return line;
    }));
    draw(item, found);
  }

  window.arJudge = {answer, effectText, items: data.items};  // for the test against the library
  fill();
  fillSettings();
  statistic.addEventListener('input', fillSettings);
  panel.addEventListener('input', show);
  panel.hidden = false;
  show();
  whenResized(boxes, show);
})();
