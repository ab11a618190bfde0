// --- totals: of the episodes in the list ------------------------------------------------------

const BINS = 10;

/** Sum up `rows`. An episode that stopped early keeps its last state in later rounds. */
function summarise(rows) {
  const c = columns;
  const total = { episodes: rows.length, graded: 0, rescued: 0, spoiled: 0, prompt: 0, completion: 0,
    learning: 0, seconds: [], failures: 0, rounds: 0, actions: [], agreement: [], right: [], single: [],
    bins: Array.from({ length: BINS }, () => ({ n: 0, right: 0, confidence: 0 })), marks: 0 };
  const last = Math.max(0, ...distinct(rows, (i) => c.votes[i].length - 1));
  for (let r = 0; r <= last; r++) {
    total.agreement.push(0); total.right.push(0); total.actions.push([0, 0, 0]);
  }
  let singles = 0, single = 0;
  for (const i of rows) {
    const held = c.held[i].split("/"), votes = c.votes[i], right = c.right[i];
    total.rounds += votes.length - 1;
    for (let r = 0; r <= last; r++) total.agreement[r] += largestShare(held[Math.min(r, held.length - 1)]);
    c.moves[i].split("/").forEach((moves, r) => {
      for (const move of moves) {
        const action = "PRC".indexOf(move);
        if (action >= 0) total.actions[r][action]++;
      }
    });
    if (right !== null) {
      total.graded++;
      const verdicts = [...votes].map((sign) => isRight(right, clusterOf(sign)));
      for (let r = 0; r <= last; r++) total.right[r] += verdicts[Math.min(r, verdicts.length - 1)];
      if (!verdicts[0] && verdicts.at(-1)) total.rescued++;
      if (verdicts[0] && !verdicts.at(-1)) total.spoiled++;
      for (const sign of held[0]) { singles++; single += isRight(right, clusterOf(sign)); }
      for (const code of c.marks[i]) {
        const confidence = (code >> 1) / 1000, bin = total.bins[Math.min(BINS - 1, Math.floor(confidence * BINS))];
        bin.n++; bin.right += code & 1; bin.confidence += confidence; total.marks++;
      }
    }
    total.prompt += c.prompt[i]; total.completion += c.completion[i]; total.learning += c.learning[i];
    total.failures += c.failures[i];
    if (c.seconds[i] !== null) total.seconds.push(c.seconds[i]);
  }
  total.agreement = total.agreement.map((sum) => sum / rows.length);
  total.right = total.right.map((sum) => sum / total.graded);
  total.single = singles ? single / singles : NaN;
  total.ece = total.bins.reduce((sum, b) => sum + Math.abs(b.confidence - b.right), 0) / total.marks;
  return total;
}

const distinct = (rows, f) => [...new Set(rows.map(f))];

function largestShare(signs) {
  const counts = new Map();
  for (const sign of signs) if (sign !== NO_CLUSTER) counts.set(sign, (counts.get(sign) ?? 0) + 1);
  return Math.max(0, ...counts.values()) / signs.length;
}

function drawTotals(rows) {
  const total = summarise(rows);
  if (!rows.length) return $("totals").replaceChildren(h("p", { class: "dim" }, "No episodes to sum up."));
  $("totals").replaceChildren(
    accuracyCard(total), actionsCard(total), roundsCard(total), calibrationCard(total), costCard(total));
}

const card = (title, label, ...children) =>
  h("section", { class: "card", role: "group", "aria-label": label ?? title }, h("h2", {}, title), ...children);
const nothing = (text) => h("p", { class: "dim nothing" }, text);
const meter = (label, share, className = "") =>
  h("div", { class: "meter" }, h("span", {}, label),
    h("span", { class: "track" }, h("span", { class: `level ${className}`, style: extent(share) })),
    h("span", { class: "value" }, percent(share, share > 0 && share < 1 ? 1 : 0)));

function accuracyCard(t) {
  const title = "Right answers";
  if (!t.graded) return card(title, null, nothing("No references in these traces: nothing can be graded."));
  return card(title, null,
    meter("one agent alone", t.single, "soft"),
    meter("first vote", t.right[0], "soft"),
    meter("the group", t.right.at(-1), "good"),
    h("p", { class: "dim", title: "Rescued: the first vote was wrong, the group's last one right. Spoiled: the other way round." },
      `${whole.format(t.rescued)} rescued, ${whole.format(t.spoiled)} spoiled`),
    t.graded < t.episodes && h("p", { class: "dim" }, `${whole.format(t.graded)} of ${whole.format(t.episodes)} have a reference`));
}

function actionsCard(t) {
  const rounds = t.actions.filter((counts) => counts.some(Boolean)), add = (a, b) => a.map((n, i) => n + b[i]);
  if (!rounds.length) return card("Actions", null, nothing("Nobody had to decide: no rounds of decisions."));
  const sum = rounds.reduce(add);
  const lines = rounds.length > 3 ? [...rounds.slice(0, 2), rounds.slice(2).reduce(add)] : rounds;
  const bar = (label, counts) => {
    const n = counts.reduce((a, b) => a + b, 0);
    const words = counts.map((count, a) => `${ACTIONS[a]} ${percent(count / n, 1)}`).join(", ");
    return h("div", { class: "meter", title: `${label}: ${words} of ${whole.format(n)} decisions` }, h("span", {}, label),
      h("span", { class: "stack", role: "img", "aria-label": words },
        counts.map((count, a) => count > 0 && h("span", { class: `a-${ACTIONS[a]}`, style: { "flex-grow": count } },
          count / n > 0.13 ? percent(count / n) : ""))));
  };
  return card("Actions", null, bar("all rounds", sum),
    rounds.length > 1 && lines.map((counts, r) => bar(r === 2 && rounds.length > 3 ? "later" : `round ${r + 1}`, counts)),
    h("p", { class: "legend" }, ACTIONS.map((action) => h("span", { class: `key k-${action}` }, action.toLowerCase()))));
}

const W = 220, H = 84, L = 26, B = 15, T = 5; // of the small charts, in their own units
const px = (x) => (L + x * (W - L - 10)).toFixed(1);
const py = (y) => (T + (1 - y) * (H - T - B)).toFixed(1);
function chart(label, ...marks) {
  const grid = [0, 0.5, 1].map((y) => [
    s("line", { class: "grid", x1: px(0), x2: px(1), y1: py(y), y2: py(y) }),
    s("text", { x: L - 4, y: +py(y) + 3, "text-anchor": "end" }, `${100 * y}`)]);
  return s("svg", { class: "chart", viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": label }, grid, marks);
}

function roundsCard(t) {
  const last = t.agreement.length - 1;
  const x = (r) => (last ? r / last : 0.5);
  const line = (values, className, name) => [
    s("polyline", { class: className, points: values.map((y, r) => `${px(x(r))},${py(y)}`).join(" ") }),
    values.map((y, r) => s("circle", { class: className, cx: px(x(r)), cy: py(y), r: 2.6 },
      s("title", {}, `${name} after round ${r}: ${percent(y, 1)}`)))];
  const words = (values) => values.map((y) => percent(y)).join(", ");
  const label = `By round: agreement ${words(t.agreement)}` + (t.graded ? `; group right ${words(t.right)}` : "");
  return card("By round", label,
    chart(label,
      t.agreement.map((_, r) => s("text", { x: px(x(r)), y: H - 3, "text-anchor": "middle" }, r ? `${r}` : "first")),
      line(t.agreement, "line-agreement", "agreement"), t.graded ? line(t.right, "line-right", "group right") : null),
    h("p", { class: "legend" },
      h("span", { class: "key k-agreement", title: "Mean share of the team behind its most common answer. Episodes that stopped early keep their last state." }, "agreement"),
      t.graded > 0 && h("span", { class: "key k-right" }, "group right"), h("span", { class: "dim" }, "%")));
}

function calibrationCard(t) {
  const title = "Calibration";
  if (!t.marks) return card(title, null, nothing(t.graded ? "No critic gave a confidence." : "Needs references to compare with."));
  const filled = t.bins.filter((b) => b.n).map((b) => ({ n: b.n, x: b.confidence / b.n, y: b.right / b.n }));
  const most = Math.max(...filled.map((b) => b.n));
  const label = "Calibration: " + filled.map((b) => `confidence ${percent(b.x)}: ${percent(b.y)} right of ${b.n}`).join("; ");
  return card(title, label,
    chart(label,
      s("line", { class: "diagonal", x1: px(0), y1: py(0), x2: px(1), y2: py(1) }),
      [0, 0.5, 1].map((x) => s("text", { x: px(x), y: H - 3, "text-anchor": "middle" }, `${100 * x}`)),
      s("polyline", { class: "line-calibration", points: filled.map((b) => `${px(b.x)},${py(b.y)}`).join(" ") }),
      filled.map((b) => s("circle", { class: "line-calibration", cx: px(b.x), cy: py(b.y), r: (1.8 + 3.2 * Math.sqrt(b.n / most)).toFixed(2) },
        s("title", {}, `confidence ${percent(b.x, 1)}: ${percent(b.y, 1)} right of ${whole.format(b.n)} responses`)))),
    h("p", { class: "legend dim" }, h("span", { title: `${plural(t.marks, "response")}. ECE, the expected calibration error: mean distance from the diagonal.` }, `% right by confidence · ECE ${percent(t.ece, 1)}`)));
}

function costCard(t) {
  const tokens = t.prompt + t.completion;
  return card("Cost", null,
    h("p", { class: "big" }, short.format(tokens / t.episodes), h("small", {}, " tokens an episode")),
    h("span", { class: "stack", role: "img", "aria-label": `${whole.format(t.prompt)} prompt, ${whole.format(t.completion)} completion tokens` },
      t.prompt > 0 && h("span", { class: "t-prompt", style: { "flex-grow": t.prompt } }, t.prompt > 0.2 * tokens && "prompt"),
      t.completion > 0 && h("span", { class: "t-completion", style: { "flex-grow": t.completion } }, t.completion > 0.2 * tokens && "written")),
    h("p", { class: "dim" }, `${short.format(tokens)} in all`, t.learning > 0 && `, and ${short.format(t.learning)} drawn to learn from`),
    h("p", { class: "dim" }, `${(t.rounds / t.episodes).toFixed(1)} rounds`,
      t.seconds.length > 0 && ` · ${seconds(mean(t.seconds))} an episode`,
      t.failures > 0 && [" · ", h("span", { class: "bad" }, plural(t.failures, "failure"))]));
}
