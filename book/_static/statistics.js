/* Small-sample statistics for judge.js, as arlib.claims.statistics has them. */
window.arStatistics = (() => {
  'use strict';
  const sum = values => values.reduce((total, value) => total + value, 0);
  const mean = values => sum(values) / values.length;
  const share = (values, test) => values.filter(test).length / values.length;

  // The q-quantile, interpolated between order statistics; the median is q = ½.
  function quantile(values, q) {
    const sorted = [...values].sort((a, b) => a - b);
    const at = q * (sorted.length - 1), below = Math.floor(at);
    const above = Math.min(below + 1, sorted.length - 1);
    return sorted[below] + (at - below) * (sorted[above] - sorted[below]);
  }
  const median = values => quantile(values, 0.5);

  // Student's t interval of a mean; t: its quantiles by degrees of freedom, from 1 on.
  // sign: on which side of 0 the interval lies, 0 if it contains 0.
  function interval(values, t) {
    const centre = mean(values), n = values.length;
    const variance = sum(values.map(value => (value - centre) ** 2)) / (n - 1);
    const half = t[n - 2] * Math.sqrt(variance / n);
    const [low, high] = [centre - half, centre + half];
    return {mean: centre, low, high, sign: Number(low > 0) - Number(high < 0)};
  }

  // Twice the ranks of a row, ties at midrank: whole numbers.
  const doubledRanks = row => row.map(value =>
    row.filter(other => other < value).length + row.filter(other => other <= value).length + 1);

  // Σ j·rank over all orders of the ranks: a map from sum to how many orders have it.
  function rankSums(ranks) {
    let placed = new Map([[0, new Map([[0, 1]])]]);
    for (let j = 1; j <= ranks.length; j++) {
      const next = new Map();
      for (const [used, sums] of placed) ranks.forEach((rank, i) => {
        if (used >> i & 1) return;
        const key = used | 1 << i;
        if (!next.has(key)) next.set(key, new Map());
        for (const [total, times] of sums) count(next.get(key), total + j * rank, times);
      });
      placed = next;
    }
    return placed.get((1 << ranks.length) - 1);
  }
  const count = (map, key, times) => map.set(key, (map.get(key) || 0) + times);

  // Page's trend test of rows (one a seed) over strengths: exact two-sided p, and the direction.
  function pageTrend(table) {
    const k = table[0].length;
    const ranks = table.map(row => doubledRanks(row.map(value => Math.round(value * 1e12) / 1e12)));
    const observed = sum(ranks.map(row => sum(row.map((rank, j) => (j + 1) * rank))));
    const centre = ranks.length * (k + 1) * k * (k + 1);  // twice the mean of the doubled sum
    let totals = new Map([[0, 1]]);
    for (const row of ranks) {
      const next = new Map();
      for (const [a, times] of totals) for (const [b, more] of rankSums(row)) count(next, a + b, times * more);
      totals = next;
    }
    const distance = Math.abs(2 * observed - centre);
    let extreme = 0;
    for (const [total, times] of totals) if (Math.abs(2 * total - centre) >= distance) extreme += times;
    return {p: extreme / sum([...totals.values()]), sign: Math.sign(2 * observed - centre)};
  }

  return {mean, share, quantile, median, interval, pageTrend};
})();
