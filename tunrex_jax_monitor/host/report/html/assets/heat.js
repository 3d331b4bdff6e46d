// The distribution over time: one column of cells per emission, drawn inside uPlot's own plot box.

function drawHeat(section, panel, target) {
  const y = points.last.map(() => null);
  const hooks = { drawAxes: [(u) => paintHeat(u, panel), (u) => shade(u, section)] };
  const chart = { series: [{}, {}], hooks };
  return new uPlot(options(section, panel, target, chart), [points.last, y], target);
}

function paintHeat(u, panel) {
  const picture = pictureOf(panel), { left, top, width, height } = u.bbox;
  const sheet = document.createElement("canvas"); // drawn at once: printed one by one, columns would show their seams
  [sheet.width, sheet.height] = [width, height];
  const context = sheet.getContext("2d");
  context.imageSmoothingEnabled = false;
  for (let at = 0; at < panel.starts.length; at++) {
    const from = Math.round(u.valToPos(panel.starts[at], "x", true) - left);
    const to = Math.round(u.valToPos(panel.stops[at], "x", true) - left);
    if (to < 0 || from > width) continue;
    context.drawImage(picture, at, 0, 1, panel.rows, from, 0, Math.max(to - from, 1), height);
  }
  u.ctx.drawImage(sheet, left, top);
}

/** A pixel per cell, in one hue; the share of samples is the opacity. Kept until the theme changes. */
function pictureOf(panel) {
  const ink = color("heat");
  if (panel.picture?.ink === ink) return panel.picture.canvas;
  const columns = panel.starts.length, canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [Math.max(columns, 1), panel.rows];
  const context = canvas.getContext("2d"), image = context.createImageData(canvas.width, panel.rows);
  const [red, green, blue] = ink.match(/\d+/g).map(Number);
  for (let at = 0; at < columns; at++) {
    for (let row = 0; row < panel.rows; row++) {
      const pixel = 4 * ((panel.rows - 1 - row) * columns + at);
      image.data.set([red, green, blue, panel.cells[at * panel.rows + row]], pixel);
    }
  }
  context.putImageData(image, 0, 0);
  panel.picture = { ink, canvas };
  return canvas;
}
