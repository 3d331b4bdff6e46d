// Columns of numbers, as the page carries them: "TYPE:BASE64", little-endian, NaN for "no data".

const ARRAYS = { f4: Float32Array, f8: Float64Array, i4: Int32Array, u1: Uint8Array };
const MISSING = "n/a";

function decode(text) {
  const bytes = Uint8Array.from(atob(text.slice(3)), (character) => character.charCodeAt(0));
  return new ARRAYS[text.slice(0, 2)](bytes.buffer);
}

/** A plain array with null where there is no data, as uPlot wants it. */
function column(text) {
  return Array.from(decode(text), (value) => (Number.isNaN(value) ? null : value));
}

/** Four digits; what has died away (3.02e-92) is 0. */
function shown(value) {
  if (value === null || value === undefined) return MISSING;
  return String(Math.abs(value) < 1e-30 ? 0 : Number(value.toPrecision(4)));
}

function counted(value) {
  return Math.round(value).toLocaleString("en-US");
}

/** "5,900" or "5,900 to 5,904" */
function span(low, high) {
  return low === high ? counted(low) : `${counted(low)} to ${counted(high)}`;
}

const probe = document.createElement("span");
probe.hidden = true;
document.body.append(probe);

const palette = new Map(); // emptied when the theme changes

/** What a colour of the style sheet is in the theme of now; a canvas knows no variables. */
function color(name, opacity = 1) {
  if (!palette.has(name)) {
    probe.style.color = `var(--${name})`;
    palette.set(name, getComputedStyle(probe).color);
  }
  const rgb = palette.get(name);
  return opacity === 1 ? rgb : rgb.replace("rgb(", "rgba(").replace(")", `, ${opacity})`);
}

function make(tag, name, text = "") {
  const element = document.createElement(tag);
  element.className = name;
  element.textContent = text; // never markup: names are text
  return element;
}
