// CSV and JSON of what is shown: the points in the range of steps, of one reward or of all.

/** The columns of a section as [name, values]. */
function columnsOf(section) {
  unpack(section);
  const named = section.panels.flatMap((panel) => [
    ...panel.lines.map((line) => [line.key, line.values]),
    ...panel.bands.flatMap((band) => [[band.key[0], band.low], [band.key[1], band.high]]),
  ]);
  return [["step_first", points.first], ["step_last", points.last], ...named];
}

function visible(values) {
  return values.filter((_, at) => points.last[at] >= view.low && points.first[at] <= view.high);
}

function toCsv(chosen) {
  const tables = chosen.map((section) => [section.name, columnsOf(section)]);
  const names = [...new Set(tables.flatMap(([, columns]) => columns.map(([name]) => name)))];
  const lines = [["reward", ...names]];
  for (const [reward, columns] of tables) {
    const byName = Object.fromEntries(columns.map(([name, values]) => [name, visible(values)]));
    byName.step_first.forEach((_, at) => lines.push([reward, ...names.map((name) => byName[name]?.[at] ?? "")]));
  }
  return lines.map((line) => line.map(quoted).join(",") + "\r\n").join("");
}

function quoted(value) {
  const text = String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function toJson(chosen) {
  const rewards = chosen.map((section) => ({
    name: section.name,
    alerts: section.alerts.filter(({ first, last }) => last >= view.low && first <= view.high)
      .map(({ first, last, type }) => ({ type, first, last })),
    columns: Object.fromEntries(columnsOf(section).map(([name, values]) => [name, visible(values)])),
  }));
  return JSON.stringify({ title: payload.title, steps: [view.low, view.high], rewards }, null, 1);
}

const FORMATS = { csv: [toCsv, "text/csv"], json: [toJson, "application/json"] };

function download(format, chosen) {
  const [write, type] = FORMATS[format], link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([write(chosen)], { type }));
  link.download = `rewards-${Math.round(view.low)}-${Math.round(view.high)}.${format}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
