/* Small charts in SVG for the page "Walk the boundary": elements, axes, ticks.
   A classic script: modules and fetch are blocked on pages opened from disk. */
window.arChart = (() => {
  'use strict';
  const NS = 'http://www.w3.org/2000/svg';

  // An SVG element inside `parent`; text is set as text, never as markup.
  function add(parent, name, attributes = {}, text = '') {
    const element = document.createElementNS(NS, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text) element.textContent = text;
    parent.append(element);
    return element;
  }

  // "−0.31", "12.4": some significant digits, a real minus sign, no exponent for what is usual.
  function number(value, digits = 3) {
    const rounded = Number(value.toPrecision(digits));
    return String(Object.is(rounded, -0) ? 0 : rounded).replace('-', '−');
  }

  // Round numbers between low and high, about `count` of them.
  function ticks(low, high, count) {
    const raw = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map(m => m * power).find(s => s >= raw);
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) found.push(i * step);
    return found;
  }

  // An empty chart as wide as its box, so that text has one size on every screen.
  // x, y: [low, high]; marks: the ticks if not round numbers, as [place, text].
  function frame(box, {height, x, y, xLabel, title, about, marks = {}}) {
    const width = Math.max(box.clientWidth, 240);
    const edge = {left: y ? 44 : 12, right: 12, top: 26, bottom: 40};
    const svg = document.createElementNS(NS, 'svg');
    svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
    svg.setAttribute('width', width);
    svg.setAttribute('height', height);
    svg.setAttribute('role', 'img');
    svg.setAttribute('aria-label', about);
    const X = v => edge.left + (v - x[0]) / (x[1] - x[0]) * (width - edge.left - edge.right);
    const base = height - edge.bottom;
    const Y = v => base - (v - y[0]) / (y[1] - y[0]) * (base - edge.top);
    add(svg, 'text', {x: edge.left, y: 15, class: 'ar-title'}, title);
    const plain = (range, count) => ticks(...range, count).map(v => [v, number(v)]);
    for (const [place, text] of marks.x || plain(x, Math.min(6, width / 75))) {
      add(svg, 'line', {x1: X(place), x2: X(place), y1: edge.top, y2: base, class: 'ar-grid'});
      add(svg, 'text', {x: X(place), y: base + 16, 'text-anchor': 'middle'}, text);
    }
    for (const [place, text] of y ? marks.y || plain(y, 4) : []) {
      add(svg, 'line', {x1: edge.left, x2: width - edge.right, y1: Y(place), y2: Y(place), class: 'ar-grid'});
      add(svg, 'text', {x: edge.left - 6, y: Y(place) + 4, 'text-anchor': 'end'}, text);
    }
    add(svg, 'text', {x: (edge.left + width - edge.right) / 2, y: height - 6, 'text-anchor': 'middle'}, xLabel);
    // What is drawn inside is cut at the edges of the plot.
    const inside = add(svg, 'svg', {
      x: edge.left, y: edge.top, width: width - edge.left - edge.right, height: base - edge.top,
      viewBox: `${edge.left} ${edge.top} ${width - edge.left - edge.right} ${base - edge.top}`,
    });
    box.replaceChildren(svg);
    return {svg, inside, X, Y, top: edge.top, base, left: edge.left, right: width - edge.right};
  }

  // Draw now, and again whenever a box gets another width.
  function whenResized(boxes, draw) {
    let width = 0;
    new ResizeObserver(() => {
      const now = boxes[0].clientWidth;
      if (now && now !== width) { width = now; draw(); }
    }).observe(boxes[0]);
  }

  return {add, number, ticks, frame, whenResized};
})();
