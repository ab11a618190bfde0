// --- elements: made of text nodes alone, so that nothing a model wrote is ever markup ---------

const $ = (id) => document.getElementById(id);

/** Make an element. `props`: attributes; also class, on (listeners), style (by name), and
 *  anything that is null, false or undefined, which is left out. */
function fill(element, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [type, f] of Object.entries(value)) element.addEventListener(type, f);
    else if (name === "style") for (const [k, v] of Object.entries(value)) element.style.setProperty(k, v);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}
const h = (tag, props = {}, ...children) => fill(document.createElement(tag), props, children);
const s = (tag, props = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), props, children);

// --- unpacking --------------------------------------------------------------------------------

async function unpack(id) {
  const binary = atob($(id).textContent);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).json();
}

const loaded = document.readyState === "loading"
  ? new Promise((done) => document.addEventListener("DOMContentLoaded", done, { once: true }))
  : Promise.resolve();
const blocks = new Map(); // the last few, by number, each a promise

/** The episodes of a block; the blocks stand behind this script, so one may still be loading. */
async function block(number) {
  if (!blocks.has(number)) {
    if (!$(`block-${number + 1}`)) await loaded; // the next one is there: this one is whole
    if (blocks.size >= 8) blocks.delete(blocks.keys().next().value);
    if (!blocks.has(number)) blocks.set(number, unpack(`block-${number}`));
  }
  return blocks.get(number);
}

// --- numbers and words ------------------------------------------------------------------------

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)}\u202f%`; // a space that does not break
const extent = (share) => ({ width: `${(100 * share).toFixed(2)}%` });
const seconds = (value) => (value < 10 ? `${value.toFixed(1)} s` : value < 120 ? `${value.toFixed(0)} s` : `${(value / 60).toFixed(1)} min`);
const plural = (count, word) => `${whole.format(count)} ${word}${count === 1 ? "" : "s"}`;
const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
const own = (object, key) => (object && Object.hasOwn(object, key) ? object[key] : undefined);

const ACTIONS = ["PERSIST", "REFINE", "CONCEDE"]; // in the order of every probability vector
const NO_CLUSTER = "-";
const clusterOf = (sign) => (sign === NO_CLUSTER ? null : sign.charCodeAt(0) - 48);

/** Whether a cluster is the reference answer; null where there is no reference. */
const isRight = (right, cluster) => (right === null ? null : cluster !== null && right[cluster] === "1");
const mark = (verdict) => (verdict === null ? "" : verdict ? "✓" : "✗");
const verdictWord = (verdict) => (verdict === null ? "" : verdict ? "right" : "wrong");

/** Letter and colour of every cluster in order of appearance. The right answer is green, and no
 *  other one is; letters say the same without colours. */
function palette(held, right) {
  const known = new Map();
  let next = 0;
  const look = (cluster) => {
    if (cluster === null) return { letter: "–", colour: "var(--none)" };
    if (!known.has(cluster)) {
      const letter = String.fromCodePoint(65 + (known.size % 26));
      const colour = isRight(right, cluster) ? "var(--right)" : `var(--c${next++ % 7})`;
      known.set(cluster, { letter, colour });
    }
    return known.get(cluster);
  };
  for (const sign of held) if (sign !== "/") look(clusterOf(sign));
  return look;
}

/** Show a record's value of any form. */
const plain = (value) =>
  value === null || value === undefined ? "none" : typeof value === "object" ? JSON.stringify(value) : String(value);
