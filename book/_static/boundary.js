/* Panel 1 of the page "Walk the boundary". Every number comes from the JSON beside the panel, where
   the networks themselves computed it; the script adds image and perturbation, and draws. */
(() => {
  'use strict';
  const panel = document.getElementById('ar-walk');
  if (!panel) return;
  const data = JSON.parse(document.getElementById('ar-walk-data').textContent);
  const {add, number, frame, whenResized} = window.arChart;
  const [channels, rows, columns] = data.shape;
  const STEPS = 127;  // a direction is stored in steps of 1/127
  const slider = panel.querySelector('input[type=range]');
  const output = panel.querySelector('output');
  const said = panel.querySelector('.ar-said');
  const selects = [...panel.querySelectorAll('select')];
  const radios = [...panel.querySelectorAll('input[type=radio]')];
  const figures = [...panel.querySelectorAll('.ar-pictures figure')];
  const boxes = [...panel.querySelectorAll('.ar-chart')];
  const aside = panel.querySelector('.ar-aside');
  const DASHES = ['', '7 4'];  // the second network is dashed: colour is not all that tells them apart

  const decoded = (text, Kind) => new Kind(Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer);
  const images = data.images.map(image => ({
    ...image,
    name: data.classes[image.label],
    pixels: decoded(image.pixels, Uint8Array),
    walks: image.walks.map(walk => ({...walk, direction: decoded(walk.direction, Int8Array)})),
  }));

  // What is chosen now.
  function state() {
    const image = images[radios.findIndex(radio => radio.checked)];
    const stop = Number(slider.value);
    const walkers = selects.map(select => {
      const index = Number(select.value);
      return {...image.walks[index], index, strength: data.networks[index].strength};
    });
    return {image, stop, walkers, distance: distanceOf(image, stop)};
  }

  // Stops lie at squares, so that the first are close together. Distances are AR strengths, 255·ε.
  const distanceOf = (image, stop) => image.reach * (stop / (data.stops - 1)) ** 2;
  const named = walker => `AR strength ${walker.strength}`;
  const answered = (walker, stop) => data.classes[walker.answer[stop]];

  // Paint (rows, columns, channels) values in [0, 1]; grey images have one channel.
  function paint(canvas, value) {
    const pixels = new ImageData(columns, rows);
    for (let i = 0; i < rows * columns; i++) {
      for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = 255 * value(i * channels + c % channels);
      pixels.data[4 * i + 3] = 255;
    }
    canvas.getContext('2d').putImageData(pixels, 0, 0);
  }
  const clamp = value => Math.min(1, Math.max(0, value));

  // --- pictures ---------------------------------------------------------------------------------

  function showPictures({image, stop, walkers, distance}) {
    walkers.forEach((walker, place) => {
      const [picture, change] = figures[place].querySelectorAll('canvas');
      const moved = i => clamp(image.pixels[i] / data.levels + distance / 255 * walker.direction[i] / STEPS);
      paint(picture, moved);
      // the change relative to its largest entry: as it is nobody would see it
      paint(change, i => (stop ? 0.5 + 0.5 * walker.direction[i] / STEPS : 0.5));
      const right = walker.answer[stop] === image.label;
      picture.setAttribute('aria-label',
        `the ${image.name} moved by ${number(distance)}/255 against ${named(walker)}`);
      change.setAttribute('aria-label', stop
        ? `the perturbation, its largest entries of ${number(distance)}/255 shown as black and white`
        : 'no perturbation');
      figures[place].querySelector('figcaption').textContent = named(walker);
      figures[place].querySelector('.ar-facts').textContent =
        `${right ? '✓' : '✗'} answers “${answered(walker, stop)}”. Lead ${number(walker.lead[stop])}, ` +
        `slope ${number(walker.slope[stop])} per 1/255. Boundary at ${number(walker.crossing)}/255 ` +
        `(instance margin recorded: ${number(walker.recorded)}/255).`;
      figures[place].classList.toggle('ar-wrong', !right);
    });
  }

  // --- charts -----------------------------------------------------------------------------------

  // A class and the colour of a network, light and dark by the page's theme.
  function series(element, index) {
    element.classList.add('ar-series');
    element.style.setProperty('--light', data.networks[index].colour);
    return element;
  }

  function showLead({image, stop, walkers, distance}) {
    const top = Math.max(...walkers.map(walker => walker.lead[0]));
    const range = [-0.8 * top, 1.12 * top];
    const chart = frame(boxes[0], {
      height: 260, x: [0, image.reach], y: range, title: 'Logit lead along the walk',
      xLabel: 'distance from the image (255·ε)',
      about: `Logit lead of ${image.name} against distance. ` + walkers.map(walker =>
        `${named(walker)}: ${number(walker.lead[0])} at the image, boundary at ${number(walker.crossing)}/255`).join('; '),
    });
    const {inside, X, Y} = chart;
    add(inside, 'rect', {x: chart.left, width: chart.right - chart.left, y: Y(0), height: chart.base - Y(0), class: 'ar-beyond'});
    add(inside, 'line', {x1: chart.left, x2: chart.right, y1: Y(0), y2: Y(0), class: 'ar-zero'});
    add(inside, 'text', {x: chart.right - 6, y: chart.base - 8, 'text-anchor': 'end'}, 'wrong answer');
    add(inside, 'line', {x1: X(distance), x2: X(distance), y1: chart.top, y2: chart.base, class: 'ar-cursor'});
    walkers.forEach((walker, place) => {
      const group = series(add(inside, 'g'), walker.index);
      const points = walker.lead.map((lead, i) => `${X(distanceOf(image, i))},${Y(lead)}`).join(' ');
      add(group, 'polyline', {points, class: 'ar-line', 'stroke-dasharray': DASHES[place]});
      const cross = `M${X(walker.crossing) - 5},${Y(0) - 5}l10,10m0,-10l-10,10`;
      add(group, 'path', {d: cross, class: 'ar-line'});
      // the tangent: the slope where one stands, a tenth of the walk to each side
      const half = image.reach / 10;
      const end = side => [X(distance + side * half), Y(walker.lead[stop] + side * half * walker.slope[stop])];
      const [[x1, y1], [x2, y2]] = [end(-1), end(1)];
      add(group, 'line', {x1, y1, x2, y2, class: 'ar-tangent'});
      add(group, 'circle', {cx: X(distance), cy: Y(walker.lead[stop]), r: 5, class: 'ar-dot'});
      const words = `${place ? '┄' : '─'} strength ${walker.strength}`;
      add(series(add(chart.svg, 'g'), walker.index), 'text',
        {x: chart.right, y: chart.top + 14 + 16 * place, 'text-anchor': 'end', class: 'ar-key'}, words);
    });
  }

  // All recorded margins of both networks; `own` marks this image, `now`, if given, where the walk has come.
  function showHistogram(box, kind, {image, walkers}, {title, xLabel, own, now}) {
    const {low, high, counts} = data.histograms[kind];
    const shares = walkers.map(walker => {
      const total = counts[walker.index].reduce((sum, count) => sum + count, 0);
      return counts[walker.index].map(count => count / total);
    });
    const top = 1.1 * Math.max(...shares.flat());
    const within = value => Math.min(high, Math.max(low, value));
    const chart = frame(box, {
      height: 210, x: [low, high], y: [0, top], xLabel, title,
      about: `${title}. This image, ${image.name}: ` + walkers.map(walker =>
        `${number(own(walker))} at ${named(walker)}`).join(', '),
    });
    const {inside, X, Y} = chart;
    const width = (high - low) / shares[0].length;
    walkers.forEach((walker, place) => {
      const group = series(add(inside, 'g'), walker.index);
      const steps = shares[place].map((share, i) =>
        `V${Y(share)}H${X(low + (i + 1) * width)}`).join('');
      add(group, 'path', {d: `M${X(low)},${Y(0)}${steps}V${Y(0)}`, class: 'ar-bars', 'stroke-dasharray': DASHES[place]});
      const at = X(within(own(walker)));
      add(group, 'path', {d: `M${at},${chart.top + 13}l-6,-12h12z`, class: 'ar-mark'});
      add(group, 'line', {x1: at, x2: at, y1: chart.top + 8, y2: chart.base, class: 'ar-here'});
      if (now) add(group, 'circle', {cx: X(within(now(walker))), cy: chart.base - 5, r: 4.5, class: 'ar-dot'});
    });
    return chart;
  }

  function showHistograms(now) {
    const {stop, distance} = now;
    showHistogram(boxes[1], 'margin', now, {
      title: 'Output margins, all test images', xLabel: 'margin m (logits)',
      own: walker => walker.margin, now: walker => walker.lead[stop],
    });
    const chart = showHistogram(boxes[2], 'instance', now, {
      title: `Instance margins, ${data.candidates} test images`, xLabel: 'distance to the boundary (255·ε)',
      own: walker => walker.recorded,
    });
    const at = Math.min(distance, data.histograms.instance.high);
    add(chart.inside, 'line', {x1: chart.X(at), x2: chart.X(at), y1: chart.top, y2: chart.base, class: 'ar-cursor'});
    aside.textContent = 'Wrong already, so without a distance and left out: ' + now.walkers.map(walker =>
      `${data.wrong[walker.index]} of ${data.candidates} at ${named(walker)}`).join(', ') + '.';
  }

  // --- all together -----------------------------------------------------------------------------

  function show() {
    const now = state();
    const {image, stop, walkers, distance} = now;
    const far = `${number(distance)}/255`;
    output.textContent = far;
    slider.setAttribute('aria-valuetext', far);
    figures.forEach((figure, place) => series(figure, walkers[place].index));
    // the two networks differ: what one select shows the other cannot choose
    selects.forEach((select, place) => [...select.options].forEach(option => {
      option.disabled = option.value === selects[1 - place].value;
    }));
    const text = `${image.name}, ${far} away. ` + walkers.map(walker =>
      `${named(walker)} answers ${answered(walker, stop)}, lead ${number(walker.lead[stop])}, ` +
      `slope ${number(walker.slope[stop])} per 1/255, ` +
      `${distance < walker.crossing ? 'before' : 'past'} its boundary at ${number(walker.crossing)}/255.`).join(' ');
    if (said.textContent !== text) said.textContent = text;  // a new width is nothing to speak of
    showPictures(now);
    showLead(now);
    showHistograms(now);
  }

  radios.forEach((radio, i) => paint(radio.parentElement.querySelector('canvas'), at => images[i].pixels[at] / data.levels));
  panel.addEventListener('input', show);
  panel.hidden = false;
  show();
  whenResized(boxes, show);
})();
