// One chart of uPlot per panel. All charts of the page share the points of the step axis.

const AXIS_WIDTH = 58; // the same for every chart, so that steps stand above each other
const WHOLE = Array.from({ length: 13 }, (_, power) => [1, 2, 5].map((digit) => digit * 10 ** power)).flat();

/** Averages over bands, or shares: `panel.bands` below `panel.lines`. */
function drawLines(section, panel, target) {
  const series = [{}], data = [points.last], bands = [];
  for (const band of panel.bands) {
    const stroke = () => color(band.color, band.outline);
    bands.push({ series: [series.length + 1, series.length], fill: () => color(band.color, band.opacity) });
    for (const values of [band.low, band.high]) {
      series.push({ stroke, width: band.outline ? 1 : 0, points: { show: false } });
      data.push(values);
    }
  }
  for (const line of panel.lines) {
    const fill = line.area ? () => color(line.color, 0.25) : undefined;
    const stroke = () => color(line.color);
    series.push({ stroke, fill, fillTo: 0, width: line.width, dash: line.dash, spanGaps: line.spans, points: { show: isLonely } });
    data.push(line.values);
  }
  const hooks = { drawClear: [(u) => shade(u, section)], draw: [(u) => guide(u, panel), (u) => mark(u, section, panel), (u) => sayEmpty(u, data.slice(1))] };
  return new uPlot(options(section, panel, target, { series, bands, hooks }), data, target);
}

/** A point without neighbours is seen as a dot; others as a line. */
function isLonely(u, index) {
  const [low, high] = u.series[0].idxs;
  const values = u.data[index].slice(low, high + 1);
  return values.filter((value) => value !== null).length === 1;
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
    scales: { x: { time: false, range: () => [view.low, view.high] }, y: { range: (u, low, high) => limits(panel, low, high) } },
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
    const calm = [...panel.lines.map((line) => line.values), ...panel.bands.filter((band) => !band.outline).flatMap((band) => [band.low, band.high])];
    const values = calm.flatMap((column) => visible(column)).filter((value) => value !== null);
    if (values.length) [low, high] = [values.reduce(least), values.reduce(greatest)];
  }
  if (low === null) return [0, 1];
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  return [low - room, high + room];
}

function guide(u, panel) {
  if (panel.guide === null) return;
  const y = u.valToPos(panel.guide, "y", true);
  stroke(u, () => u.ctx.moveTo(u.bbox.left, y) || u.ctx.lineTo(u.bbox.left + u.bbox.width, y));
}

function stroke(u, path) {
  u.ctx.save();
  u.ctx.beginPath();
  path();
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
