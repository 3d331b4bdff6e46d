// What is shown: a range of steps, a point under the cursor, a theme. The address carries the range and a reward.

const view = { low: 0, high: 1, point: null, reward: null, isFitted: false };
const ends = [points.first[0] ?? 0, points.last.at(-1) ?? 1];
const status = document.getElementById("shown"), spoken = document.getElementById("spoken");

function everyChart(act) {
  for (const section of sections) section.charts.forEach(act);
}

function zoom(low, high, { remember = true } = {}) {
  low = Math.max(Math.min(low, high), ends[0]);
  high = Math.min(Math.max(low + 1, high), Math.max(ends[1], low + 1));
  [view.low, view.high] = ends[0] === ends[1] ? [ends[0] - 1, ends[0] + 1] : [low, high];
  rescale();
  const isWhole = view.low <= ends[0] && view.high >= ends[1];
  if (!points.last.length) status.textContent = "No steps yet";
  else status.textContent = isWhole ? `All steps: ${span(...ends)}` : `Steps ${span(Math.round(low), Math.round(high))}`;
  if (remember) writeAddress(isWhole);
}

function rescale() {
  everyChart((chart) => chart.setScale("x", { min: view.low, max: view.high }));
  queueMicrotask(() => point(view.point)); // uPlot has drawn by then, and left the cursor where it was on the screen
}

function reset() {
  view.reward = null;
  highlight();
  zoom(...ends);
}

function writeAddress(isWhole) {
  const reward = view.reward === null ? [] : [`reward=${view.reward}`];
  const steps = isWhole ? [] : [`steps=${Math.round(view.low)}-${Math.round(view.high)}`];
  const address = `#${[...steps, ...reward].join("&")}`;
  try {
    history.replaceState(null, "", address === "#" ? location.pathname + location.search : address);
  } catch {
    // inside a frame without an address of its own (a notebook) there is nothing to write to
  }
}

function readAddress() {
  const steps = /steps=(-?\d+)-(-?\d+)/.exec(location.hash), reward = /reward=(\d+)/.exec(location.hash);
  view.reward = reward && sections[reward[1]] ? Number(reward[1]) : null;
  zoom(...(steps ? [Number(steps[1]), Number(steps[2])] : ends), { remember: false });
  highlight();
  if (view.reward !== null) sections[view.reward].element.scrollIntoView();
}

function highlight() {
  sections.forEach((section, at) => section.element.classList.toggle("linked", at === view.reward));
}

function select(u) {
  const { left, width } = u.select;
  if (width > 3) zoom(u.posToVal(left, "x"), u.posToVal(left + width, "x"));
  u.setSelect({ left: 0, width: 0 }, false);
}

/** All cursors go where the mouse takes one of them. */
function follow(u) {
  u.over.addEventListener("mousemove", () => point(u.cursor.idx, u)); // after uPlot's own, which finds the index
  u.over.addEventListener("mouseleave", () => point(null, u));
}

function point(at, source = null) {
  view.point = at;
  everyChart((chart) => {
    if (chart !== source) chart.setCursor({ left: at === null ? -10 : chart.valToPos(points.last[at], "x"), top: 0 });
  });
  for (const section of sections) if (section.charts.length) read(section, at);
  const steps = at === null ? "" : span(points.first[at], points.last[at]);
  document.getElementById("at").textContent = steps && `at ${points.first[at] === points.last[at] ? "step" : "steps"} ${steps}`;
}

function toggleFit() {
  view.isFitted = !view.isFitted;
  document.querySelector("[data-do=fit]").setAttribute("aria-pressed", view.isFitted);
  rescale();
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  repaint();
}

function repaint() {
  palette.clear();
  everyChart((chart) => chart.redraw(false));
}

function theme() {
  return document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
}

function toggleTheme() {
  setTheme(theme() === "dark" ? "light" : "dark");
}
