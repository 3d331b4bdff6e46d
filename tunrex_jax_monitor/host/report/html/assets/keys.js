// The keyboard; the page lists the same keys.

const KEYS = {
  ArrowLeft: (event) => step(event.shiftKey ? -10 : -1),
  ArrowRight: (event) => step(event.shiftKey ? 10 : 1),
  "+": () => narrow(0.5),
  "-": () => narrow(2),
  r: () => reset(),
  n: () => visitAlert(1),
  p: () => visitAlert(-1),
  f: () => toggleFit(),
  t: () => toggleTheme(),
  Escape: () => point(null),
};

function onKey(event) {
  const act = KEYS[event.key];
  if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key.startsWith("Arrow") && event.target.closest?.(".wide")) return; // a wide table scrolls by them
  event.preventDefault();
  act(event);
}

/** Move the cursor by points, within what is shown, and say aloud where it is. */
function step(by) {
  const inside = points.last.flatMap((last, at) => (last >= view.low && last <= view.high ? [at] : []));
  if (!inside.length || !sections.length) return;
  const from = view.point ?? (by > 0 ? inside[0] - by : inside.at(-1) - by);
  point(Math.min(Math.max(from + by, inside[0]), inside.at(-1)));
  spoken.textContent = describePoint();
}

function describePoint() {
  const section = sections[view.reward ?? 0];
  const entries = [...section.element.querySelectorAll(".legend li")].map((entry) => entry.textContent);
  return `${document.getElementById("at").textContent}, ${section.name}: ${entries.join(", ")}`;
}

function narrow(factor) {
  const middle = view.point === null ? (view.low + view.high) / 2 : points.last[view.point];
  const half = ((view.high - view.low) * factor) / 2;
  zoom(middle - half, middle + half);
}

const links = [...document.querySelectorAll("a[data-alert]")];
let visited = null;

function visitAlert(by) {
  if (!links.length) return;
  visited = visited === null ? (by > 0 ? 0 : links.length - 1) : (visited + by + links.length) % links.length;
  location.hash = links[visited].hash;
}
