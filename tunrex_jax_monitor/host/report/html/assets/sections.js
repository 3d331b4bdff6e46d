// A section per reward. Its columns are decoded, and its charts made, when it comes near the screen.

const payload = JSON.parse(document.getElementById("payload").textContent);
const points = { first: column(payload.axis.first), last: column(payload.axis.last) };
const held = payload.emissions === null ? [] : holdEmissions(column(payload.emissions));
const FACE = getComputedStyle(document.body).fontFamily, FONT = `12px ${FACE}`;

const sections = payload.sections.map((given, at) => ({
  ...given,
  element: document.getElementById(`reward-${at}`),
  alerts: given.alerts.flatMap(({ type, color, first, last }) => {
    const known = payload.kinds[type] ?? payload.other, ends = column(last);
    const look = { type, sign: known.sign, color: color ?? known.color };
    return column(first).map((step, at) => ({ first: step, last: ends[at], ...look }));
  }),
  charts: [],
  readout: [],
}));
for (const { element, panels } of sections) { // room for charts that are not there yet: nothing moves when they come
  const height = panels.reduce((sum, panel) => sum + panel.height + (panel.kind === "heat" ? 22 : 41), 0);
  element.querySelector(".charts").style.minHeight = `${height}px`;
}

/** For each point, the emission that its steps went into. */
function holdEmissions(steps) {
  let at = 0;
  return points.first.map((first) => {
    while (at < steps.length && steps[at] < first) at++;
    return at;
  });
}

/** A column at the points: as it is, or held from the emissions. */
function valuesOf(data) {
  if (data === null) return points.first.map(() => null);
  const values = column(data.values);
  return data.held ? held.map((at) => values[at] ?? null) : values;
}

function unpack(section) {
  if (section.unpacked) return;
  section.unpacked = true;
  for (const panel of section.panels) {
    for (const line of panel.lines) line.values = valuesOf(line.data);
    for (const band of panel.bands) {
      band.low = valuesOf(band.data[0]);
      band.high = band.data[1] === null ? band.low : valuesOf(band.data[1]);
    }
    if (panel.kind === "heat") {
      [panel.starts, panel.stops, panel.cells] = [panel.starts, panel.stops, panel.cells].map(decode);
    }
  }
}

function build(section) {
  if (section.charts.length) return;
  unpack(section);
  const place = section.element.querySelector(".charts");
  for (const panel of section.panels) {
    const box = make("div", "panel"), title = make("h3", "", panel.title), plot = make("div", "plot");
    plot.style.height = `${panel.height}px`;
    box.append(title, ...legend(section, panel), plot);
    place.append(box);
    section.charts.push((panel.kind === "heat" ? drawHeat : drawLines)(section, panel, plot));
  }
  read(section, view.point);
}

/** The legend says what each line is, and its value at the cursor. */
function legend(section, panel) {
  const list = make("ul", "legend");
  for (const [item, text] of [...panel.lines.map((l) => [l, lineText]), ...panel.bands.map((b) => [b, bandText])]) {
    const entry = make("li", ""), value = make("b", "", MISSING);
    const swatch = make("i", item.low ? "swatch wide" : item.dash.length ? "swatch dashed" : "swatch");
    swatch.style.color = `var(--${item.color})`;
    swatch.style.opacity = item.opacity ? 0.15 + item.opacity : 1;
    entry.append(swatch, `${item.label} `, value);
    list.append(entry);
    section.readout.push((point) => (value.textContent = text(item, point, panel)));
  }
  return panel.lines.length + panel.bands.length ? [list] : [];
}

function figure(value, panel) {
  return panel.percent && value !== null ? `${shown(100 * value)}%` : shown(value);
}

function lineText(line, point, panel) {
  return figure(line.values[point], panel);
}

function bandText(band, point, panel) {
  const [low, high] = [figure(band.low[point], panel), figure(band.high[point], panel)];
  return low === high ? low : `${low} to ${high}`;
}

/** Show the values of a point, or of the last one. */
function read(section, point) {
  const at = point ?? points.last.length - 1;
  for (const update of section.readout) update(at);
}

function resize(section) {
  const isPrinted = document.documentElement.classList.contains("printed");
  section.charts.forEach((chart, at) => {
    const plot = chart.root.parentNode, height = section.panels[at].height * (isPrinted ? 0.7 : 1);
    plot.style.height = `${height}px`;
    chart.setSize({ width: plot.clientWidth, height });
  });
}
