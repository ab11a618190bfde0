// --- the list: filters, search, and only the rows in sight -------------------------------------

const ROW = 78; // pixels, as in the style sheet
let columns = {};
let shown = []; // indices of the episodes that the filters let through, in order
let current = -1; // index of the episode looked at
let haystacks = [];

const answered = (signs) => new Set([...signs].filter((sign) => sign !== NO_CLUSTER));
const rounds = (i) => columns.held[i].split("/");
const verdict = (i, at) => isRight(columns.right[i], clusterOf(columns.votes[i].at(at)));

const RESULTS = {
  "": ["Any result", () => true],
  right: ["Right", (i) => verdict(i, -1) === true],
  wrong: ["Wrong", (i) => verdict(i, -1) === false],
  rescued: ["Rescued: wrong at first, then right", (i) => verdict(i, 0) === false && verdict(i, -1)],
  spoiled: ["Spoiled: right at first, then wrong", (i) => verdict(i, 0) && verdict(i, -1) === false],
  none: ["No answer", (i) => columns.votes[i].at(-1) === NO_CLUSTER],
  unknown: ["No reference", (i) => columns.right[i] === null],
};
const COURSES = {
  "": ["Any course", () => true],
  split: ["Disagreed at first", (i) => answered(rounds(i)[0]).size > 1],
  open: ["Still disagreed at the end", (i) => answered(rounds(i).at(-1)).size > 1],
  changed: ["The group changed its answer", (i) => new Set(columns.votes[i]).size > 1],
  refined: ["Somebody refined", (i) => columns.moves[i].includes("R")],
  conceded: ["Somebody conceded", (i) => columns.moves[i].includes("C")],
  tie: ["Ended in a tie", (i) => columns.ties[i] > 0],
  failed: ["Something failed", (i) => columns.failures[i] > 0],
};
const tokensOf = (i) => columns.prompt[i] + columns.completion[i];
const ORDERS = {
  "": ["As written", null],
  newest: ["Newest first", (i) => -columns.started[i]],
  tokens: ["Most tokens first", (i) => -tokensOf(i)],
  seconds: ["Slowest first", (i) => -(columns.seconds[i] ?? -1)],
  agreement: ["Least agreement first", (i) => largestShare(rounds(i).at(-1))],
  moves: ["Most moves first", (i) => -[...columns.moves[i]].filter((m) => m === "R" || m === "C").length],
};

function fillSelect(id, choices) {
  $(id).replaceChildren(...Object.entries(choices).map(([value, [label]]) => h("option", { value }, label)));
}

function setUpFilters() {
  fillSelect("result", RESULTS); fillSelect("course", COURSES); fillSelect("sort", ORDERS);
  for (const [id, any] of [["router", "Any router"], ["stop", "Any end"]]) {
    const values = [...new Set(columns[id])].sort();
    $(id).replaceChildren(h("option", { value: "" }, any),
      ...values.map((value, n) => h("option", { value: n + 1 }, (value || "not recorded").replaceAll("_", " "))));
    $(id).values = values;
    $(id).hidden = values.length < 2;
  }
}

const chosen = (id, i) => $(id).value === "" || columns[id][i] === $(id).values[$(id).value - 1];
const words = () => $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
const matches = (text, wanted) => wanted.every((word) => text.includes(word));

function haystack(i) {
  return (haystacks[i] ??= [columns.question[i], columns.answers[i], columns.reference[i], columns.router[i], columns.id[i]].join("\n").toLowerCase());
}

let search = 0; // the number of the last one: an older one that is under way gives up

async function applyFilters() {
  const number = ++search, wanted = words();
  const passing = [];
  const result = RESULTS[$("result").value][1], course = COURSES[$("course").value][1];
  for (let i = 0; i < columns.id.length; i++) {
    if (result(i) && course(i) && chosen("router", i) && chosen("stop", i)) passing.push(i);
  }
  $("reset").hidden = !(wanted.length || ["result", "course", "router", "stop"].some((id) => $(id).value));
  const order = ORDERS[$("sort").value][1];
  const show = (rows, note = "") => {
    if (order) {
      const keys = new Map(rows.map((i) => [i, order(i)]));
      rows.sort((a, b) => keys.get(a) - keys.get(b) || a - b);
    }
    shown = rows;
    const all = columns.id.length;
    $("count").textContent = (rows.length === all ? plural(all, "episode") : `${whole.format(rows.length)} of ${plural(all, "episode")}`) + note;
    drawRows();
    if (!note && !$("totals").hidden) drawTotals(shown);
  };
  if (!wanted.length || !$("said").checked) {
    show(wanted.length ? passing.filter((i) => matches(haystack(i), wanted)) : passing);
    return;
  }
  const found = [];
  let past = performance.now();
  for (const [n, i] of passing.entries()) {
    const text = haystack(i) + "\n" + said((await block(columns.block[i]))[columns.place[i]]);
    if (number !== search) return;
    if (matches(text, wanted)) found.push(i);
    if (performance.now() - past > 150) {
      show(found.slice(), ` · searching, ${percent(n / passing.length)}`);
      await new Promise((done) => setTimeout(done));
      if (number !== search) return;
      past = performance.now();
    }
  }
  show(found);
}

function said(episode) {
  const parts = Object.values(episode.responses).map((response) => response.text);
  return [episode.question, ...Object.values(episode.contexts), ...parts].join("\n").toLowerCase();
}

// --- rows -------------------------------------------------------------------------------------

function drawRows() {
  const list = $("list");
  $("rows").style.height = `${shown.length * ROW}px`;
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 4);
  const end = Math.min(shown.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 4);
  const rows = [];
  for (let at = first; at < end; at++) rows.push(row(shown[at], at));
  $("rows").replaceChildren(...rows);
  const at = shown.indexOf(current);
  if (at >= first && at < end) list.setAttribute("aria-activedescendant", `row-${at}`);
  else list.removeAttribute("aria-activedescendant");
}

function row(i, at) {
  const c = columns, verdictHere = verdict(i, -1);
  return h("div", { class: "row", role: "option", id: `row-${at}`, "data-index": i, style: { top: `${at * ROW}px` },
      "aria-selected": String(i === current), "aria-posinset": at + 1, "aria-setsize": shown.length },
    miniature(i),
    h("div", { class: "row-text" },
      h("div", { class: "row-question" }, c.question[i] || "(no question)"),
      h("div", { class: "row-facts" },
        h("span", { class: `answer ${verdictWord(verdictHere)}` }, mark(verdictHere), " ", c.answer[i] ?? "no answer"),
        h("span", {}, `${c.votes[i].length - 1} r`), h("span", {}, `${short.format(tokensOf(i))} tok`),
        c.failures[i] > 0 && h("span", { class: "bad", title: plural(c.failures[i], "failure") }, "⚠"))));
}

/** The whole episode as a stamp: a line per agent, a column per round. */
function miniature(i) {
  const look = palette(columns.held[i], columns.right[i]), after = rounds(i);
  const width = after.length, height = columns.agents[i];
  return s("svg", { class: "stamp", viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" },
    after.map((signs, r) => [...signs].map((sign, a) =>
      s("rect", { x: r + 0.06, y: a + 0.06, width: 0.88, height: 0.88, style: { fill: look(clusterOf(sign)).colour } }))));
}

function reveal(at) {
  const list = $("list"), top = at * ROW;
  if (top < list.scrollTop) list.scrollTop = top;
  else if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
}

/** Look at the episode that stands `at` this place of the list. */
function go(at) {
  if (!shown.length) return;
  at = Math.max(0, Math.min(shown.length - 1, at));
  reveal(at);
  look(shown[at]);
}

function step(by) {
  const at = shown.indexOf(current);
  go(at < 0 ? 0 : at + by);
}
