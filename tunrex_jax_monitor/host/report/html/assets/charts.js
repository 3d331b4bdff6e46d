// One chart of uPlot per panel. All charts of the page share the points of the step axis.

const AXIS_WIDTH = 58; // the same for every chart, so that steps stand above each other
const WHOLE = Array.from({ length: 13 }, (_, power) => [1, 2, 5].map((digit) => digit * 10 ** power)).flat();

/** Averages over bands, or shares: `panel.bands` below `panel.lines`. */
function drawLines(section, panel, target) {
  const series = [{}], data = [points.last], bands = [];
  for (const band of panel.bands) {
    const stroke = () => color(band.color, band.outline);
    bands.push({ series: [series.length + 1, series.length], fill: () => color(band.color, band.opacity) });
    const points = { show: false, filter: band.outline ? lonely : () => null };
    for (const values of [band.low, band.high]) {
      series.push({ stroke, width: band.outline ? 1 : 0, points });
      data.push(values);
    }
  }
  for (const line of panel.lines) {
    const fill = line.area ? () => color(line.color, 0.25) : undefined;
    const stroke = () => color(line.color), dots = { show: false, filter: line.spans ? only : lonely };
    series.push({ stroke, fill, fillTo: 0, width: line.width, dash: line.dash, spanGaps: line.spans, points: dots });
    data.push(line.values);
  }
  const above = [(u) => guide(u, panel), (u) => mark(u, section, panel), (u) => sayEmpty(u, data.slice(1))];
  const hooks = { drawClear: [(u) => shade(u, section)], draw: above };
  return new uPlot(options(section, panel, target, { series, bands, hooks }), data, target);
}

/** The points without neighbours, which no line goes through: they become dots. */
function lonely(u, index) {
  const values = u.data[index];
  const has = (at) => values[at] !== null && values[at] !== undefined;
  return values.flatMap((_, at) => (has(at) && !has(at - 1) && !has(at + 1) ? [at] : []));
}

/** The same where lines span gaps: a point that is the only one. */
function only(u, index) {
  const known = u.data[index].flatMap((value, at) => (value === null ? [] : [at]));
  return known.length === 1 ? known : null;
}

function options(section, panel, target, given) {
  const ink = () => color("muted"), grid = { stroke: () => color("grid"), width: 1 };
  const quiet = panel.steps ? {} : { values: (u, splits) => splits.map(() => ""), size: 8 };
  const values = (u, splits) => splits.map((value) => counted(value));
  const numbers = (u, splits) => splits.map((value) => (panel.percent ? `${shown(100 * value)}%` : shown(value)));
  return {
    ...given,
    width: target.clientWidth,
    height: panel.height,
    padding: [panel.marks ? 18 : 8, 22, 0, 0],
    legend: { show: false },
    scales: {
      x: { time: false, range: () => [view.low, view.high] },
      y: { range: (u, low, high) => limits(panel, low, high) },
    },
    axes: [
      { stroke: ink, grid, ticks: grid, values, incrs: WHOLE, size: 28, font: FONT, ...quiet },
      { stroke: ink, grid, ticks: { show: false }, values: numbers, size: AXIS_WIDTH, font: FONT, gap: 6, space: 28 },
    ],
    cursor: {
      y: false,
      points: { size: 7 },
      drag: { x: true, y: false, setScale: false },
      bind: { dblclick: () => () => reset() },
    },
    hooks: { ...given.hooks, ready: [follow], setSelect: [select] },
  };
}

/** All that is drawn; or, fitted, the averages and the spread of the window alone, and single steps are cut off. */
function limits(panel, low, high) {
  if (panel.range) return panel.range;
  if (view.isFitted) {
    const spread = panel.bands.filter((band) => !band.outline).flatMap((band) => [band.low, band.high]);
    const columns = [...panel.lines.map((line) => line.values), ...spread];
    const values = columns.flatMap(visible).filter((value) => value !== null);
    if (values.length) [low, high] = [values.reduce(least), values.reduce(greatest)];
  }
  if (low === null) return [0, 1];
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  return [low - room, high + room];
}

function guide(u, panel) {
  if (panel.guide === null) return;
  const y = u.valToPos(panel.guide, "y", true);
  u.ctx.save();
  u.ctx.beginPath();
  u.ctx.moveTo(u.bbox.left, y);
  u.ctx.lineTo(u.bbox.left + u.bbox.width, y);
  u.ctx.setLineDash([2 * devicePixelRatio, 3 * devicePixelRatio]);
  u.ctx.strokeStyle = color("muted");
  u.ctx.stroke();
  u.ctx.restore();
}

/** Episodes of alerts, through all panels of a reward. */
function shade(u, section) {
  const { left, top, width, height } = u.bbox;
  inPlot(u, () => {
    for (const alert of section.alerts) {
      const from = u.valToPos(alert.first, "x", true), to = u.valToPos(alert.last, "x", true);
      if (to < left || from > left + width) continue;
      u.ctx.fillStyle = color(alert.color, 0.16);
      u.ctx.fillRect(from, top, Math.max(to - from, 2 * devicePixelRatio), height);
    }
  });
}

/** The sign of each episode's type, above the plot where it began. */
function mark(u, section, panel) {
  if (!panel.marks) return;
  const { left, top, width } = u.bbox;
  u.ctx.save();
  u.ctx.font = `${12 * devicePixelRatio}px ${FACE}`;
  u.ctx.textAlign = "center";
  u.ctx.textBaseline = "bottom";
  for (const alert of section.alerts) {
    const x = u.valToPos(alert.first, "x", true);
    if (x < left || x > left + width) continue;
    u.ctx.fillStyle = color(alert.color);
    u.ctx.fillText(alert.sign, x, top - devicePixelRatio);
  }
  u.ctx.restore();
}

function sayEmpty(u, columns) {
  if (columns.some((values) => values.some((value) => value !== null))) return;
  u.ctx.save();
  [u.ctx.font, u.ctx.textAlign, u.ctx.fillStyle] = [`${13 * devicePixelRatio}px ${FACE}`, "center", color("muted")];
  u.ctx.fillText("no data", u.bbox.left + u.bbox.width / 2, u.bbox.top + u.bbox.height / 2);
  u.ctx.restore();
}

const least = (a, b) => Math.min(a, b), greatest = (a, b) => Math.max(a, b);

function inPlot(u, paint) {
  u.ctx.save();
  u.ctx.beginPath();
  u.ctx.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
  u.ctx.clip();
  paint();
  u.ctx.restore();
}
