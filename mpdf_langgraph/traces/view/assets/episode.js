// --- an episode: a lattice of agents and rounds ------------------------------------------------

const CELL = { width: 158, height: 96, gapX: 40, gapY: 14, left: 76, top: 26 };

/** Let the cells fill the width there is, within reason; beyond it the lattice scrolls. */
function fitCells(rounds) {
  const wide = matchMedia("(min-width: 1181px)").matches; // as in the style sheet: beside what was said
  const available = (wide ? 0.6 : 1) * $("episode").clientWidth - 40 - CELL.left;
  CELL.gapX = rounds > 3 ? 24 : 40;
  CELL.width = Math.floor(Math.max(104, Math.min(176, (available + CELL.gapX) / rounds - CELL.gapX)));
}
const cellX = (r) => CELL.left + r * (CELL.width + CELL.gapX);
const cellY = (a) => CELL.top + a * (CELL.height + CELL.gapY);

function drawEpisode(i, episode) {
  const right = episode.right === null ? null : episode.right.map((yes) => (yes ? "1" : "0")).join("");
  const view = { episode, right, look: palette(columns.held[i], right), index: i };
  view.turn = (a, r) => episode.turns.find((turn) => turn.agent === episode.names[a] && turn.round === r);
  view.response = (id) => (id === null ? null : episode.responses[id]);
  const detail = h("section", { class: "detail", id: "detail", "aria-live": "polite", "aria-label": "What was said" });
  fitCells(episode.held.length);
  $("episode").replaceChildren(head(view), h("div", { class: "stage" },
    h("div", { class: "scroller" }, lattice(view, detail), failures(view), about(view)), detail));
  $("episode").scrollTop = 0;
  const best = episode.held.at(-1).indexOf(episode.tallies.at(-1).response);
  select(view, detail, Math.max(0, best), episode.held.length - 1, false);
}

const INTERVENTIONS = { settle: "A person let it stand", hint: "A person gave a hint", answer: "A person named the answer", force: "Actions were forced" };

function head({ episode, right }) {
  const final = episode.tallies.at(-1), verdict = isRight(right, final.cluster);
  const outcome = episode.outcome, i = current;
  return h("header", { class: "head" },
    h("h2", { class: "question" }, episode.question || "(no question)"),
    h("p", { class: "facts" },
      h("span", {}, "The group: ", h("strong", { class: `answer ${verdictWord(verdict)}` }, `${mark(verdict)} ${final.answer ?? "no answer"}`)),
      episode.reference !== null && episode.reference.length <= 120 && h("span", {}, "reference: ", h("strong", {}, episode.reference)),
      h("span", {}, "support ", h("strong", {}, percent(final.support)), final.tie && " (a tie)"),
      outcome.stop_reason && h("span", {}, "stopped: ", h("strong", {}, String(outcome.stop_reason).replaceAll("_", " "))),
      h("span", {}, h("strong", {}, whole.format(tokensOf(i))), " tokens"),
      columns.seconds[i] !== null && h("span", {}, h("strong", {}, seconds(columns.seconds[i]))),
      columns.router[i] && h("span", {}, "router ", h("strong", {}, columns.router[i])),
      h("span", { class: "dim" }, new Date(1000 * episode.started).toLocaleString())),
    episode.recruits.map((one) => h("p", { class: "intervention" }, recruited(one))),
    (episode.interventions ?? []).map(({ action, round, text }) =>
      h("p", { class: "intervention" }, h("strong", {}, `${INTERVENTIONS[action] ?? action}, round ${round}`), text && `: ${text}`)));
}

/** A decision whether another agent is asked to propose, as a line. */
function recruited({ action, next, waiting, leader, runner_up: runnerUp, gain, price, why }) {
  const who = action === "ASK" ? `${next.join(", ")} asked, too` : `not asked: ${waiting.join(", ")}`;
  return [h("strong", {}, who), `: the votes stood ${leader} to ${runnerUp}; asking on gains ${gain.toFixed(3)}, its price is ${price.toFixed(3)} (${why})`];
}

// --- the lattice --------------------------------------------------------------------------------

function lattice(view, detail) {
  const { episode } = view, { names, held } = episode;
  const width = cellX(held.length) - CELL.gapX + 4, height = cellY(names.length) + 44;
  const cells = [];
  names.forEach((_, a) => held.forEach((_, r) => cells.push(cell(view, detail, a, r))));
  return h("div", { class: CELL.width < 128 ? "lattice narrow" : "lattice", id: "lattice", role: "group", style: { width: `${width}px`, height: `${height}px` },
      "aria-label": "Agents and rounds; the arrow keys move", on: { keydown: (event) => walk(event, view, detail) } },
    links(view, width, height),
    held.map((_, r) => h("div", { class: "column-name", style: { left: `${cellX(r)}px`, width: `${CELL.width}px` } }, r ? `round ${r}` : "first answers")),
    names.map((name, a) => h("div", { class: "agent-name", title: name, style: { top: `${cellY(a)}px`, height: `${CELL.height}px` } },
      h("strong", {}, name), h("small", {}, plain(episode.agents[a].model ?? "")))),
    cells,
    h("div", { class: "agent-name", style: { top: `${cellY(names.length)}px`, height: "36px" } }, h("strong", {}, "the group")),
    episode.tallies.map((tally, r) => groupCell(view, tally, r)));
}

function cell(view, detail, a, r) {
  const { episode } = view, response = view.response(episode.held[r][a]), turn = view.turn(a, r);
  const cluster = response ? response.cluster : null, { letter, colour } = view.look(cluster);
  const verdict = response ? isRight(view.right, cluster) : null;
  const confidence = confidenceOf(response);
  const chance = turn && turn.probabilities[ACTIONS.indexOf(turn.action)];
  const trouble = failuresAt(view, a, r).length > 0;
  const label = [episode.names[a], r ? `round ${r}` : "first answer", turn && `${turn.action} with probability ${percent(chance)}`,
    response ? `holds ${response.answer ?? "no answer"}` : "holds nothing", verdictWord(verdict),
    confidence !== null && `confidence ${percent(confidence)}`, trouble && "something failed"].filter(Boolean).join(", ");
  return h("button", { class: "cell", type: "button", id: `cell-${a}-${r}`, tabindex: -1, "aria-label": label,
      style: { left: `${cellX(r)}px`, top: `${cellY(a)}px`, width: `${CELL.width}px`, height: `${CELL.height}px`, "--cluster": colour },
      on: { click: () => select(view, detail, a, r, true) } },
    h("span", { class: "cell-answer" }, h("span", { class: "letter" }, letter),
      h("span", { class: "cell-text" }, response ? response.answer ?? "no answer" : "no response"),
      trouble && h("span", { class: "bad" }, "⚠"), h("span", { class: `mark ${verdictWord(verdict)}` }, mark(verdict))),
    confidenceBar(confidence),
    turn ? [h("span", { class: "cell-action" }, h("span", { class: `badge a-${turn.action}` }, turn.action), h("span", {}, percent(chance))),
      h("span", { class: "stack thin" }, ACTIONS.map((action, n) => turn.probabilities[n] > 0 &&
        h("span", { class: `a-${action}`, style: { "flex-grow": turn.probabilities[n] } })))]
      : h("span", { class: "cell-action" }, h("span", { class: "badge plain" }, !wasAsked(view, a) ? "NOT ASKED" : r ? "no turn" : response ? "PROPOSE" : "FAILED")));
}

const wasAsked = ({ episode }, a) => Object.hasOwn(episode.tallies[0].votes, episode.names[a]);

const confidenceOf = (response) => (response && response.critique ? response.critique.confidence : null);
function confidenceBar(confidence) {
  return h("span", { class: "confidence", title: confidence === null ? "no confidence" : `confidence ${percent(confidence, 1)}` },
    h("span", { class: "track" }, confidence !== null && h("span", { class: "level", style: extent(confidence) })),
    h("span", { class: "value" }, confidence === null ? "–" : confidence.toFixed(2)));
}

function groupCell(view, tally, r) {
  const { letter, colour } = view.look(tally.cluster), verdict = isRight(view.right, tally.cluster);
  const weights = view.episode.names.map((name) => `${name}: ${view.look(own(tally.votes, name) ?? null).letter}` +
    (own(tally.weights, name) === undefined ? "" : ` × ${own(tally.weights, name).toFixed(2)}`)).join("\n");
  return h("div", { class: "cell group-cell", title: `votes and their weights\n${weights}`,
      style: { left: `${cellX(r)}px`, top: `${cellY(view.episode.names.length)}px`, width: `${CELL.width}px`, "--cluster": colour } },
    h("span", { class: "cell-answer" }, h("span", { class: "letter" }, letter), h("span", { class: "cell-text" }, tally.answer ?? "no answer"),
      h("small", { class: "dim" }, tally.tie ? "tie" : percent(tally.support)), h("span", { class: `mark ${verdictWord(verdict)}` }, mark(verdict))));
}

/** Who took what from where: a straight line for a kept response, a dashed one for a new one,
 *  and a curve from the peer whose response was adopted. */
function links(view, width, height) {
  const { episode } = view, paths = [];
  episode.names.forEach((name, a) => {
    for (let r = 1; r < episode.held.length; r++) {
      const turn = view.turn(a, r);
      if (!turn || episode.held[r][a] === null) continue;
      const adopted = turn.action === "CONCEDE" ? episode.held[r - 1].indexOf(turn.target) : -1;
      const from = adopted >= 0 ? adopted : a;
      const x0 = cellX(r - 1) + CELL.width, x1 = cellX(r) - 3, y0 = cellY(from) + CELL.height / 2, y1 = cellY(a) + CELL.height / 2;
      const changed = episode.held[r][a] !== episode.held[r - 1][a];
      const kind = adopted >= 0 ? "CONCEDE" : changed ? "REFINE" : "PERSIST";
      const cluster = view.response(episode.held[r][a]).cluster;
      const end = y1 + (adopted >= 0 ? Math.sign(y0 - y1) * 14 : 0);
      paths.push(s("path", { class: `link l-${kind}`, style: { stroke: view.look(cluster).colour }, "marker-end": "url(#arrow)",
        d: `M${x0},${y0} C${x0 + 22},${y0} ${x1 - 22},${end} ${x1},${end}` }));
    }
  });
  return s("svg", { class: "links", width, height, "aria-hidden": "true" },
    s("defs", {}, s("marker", { id: "arrow", viewBox: "0 0 6 6", refX: 4.5, refY: 3, markerWidth: 4, markerHeight: 4, orient: "auto" },
      s("path", { d: "M0,0 L6,3 L0,6 z", fill: "context-stroke" }))), paths);
}

function walk(event, view, detail) {
  const [, a, r] = (document.activeElement.id.match(/^cell-(\d+)-(\d+)$/) ?? []).map(Number);
  const by = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  if (a === undefined || !by || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  const { names, held } = view.episode;
  const [y, x] = [a + by[0], r + by[1]];
  if (y >= 0 && y < names.length && x >= 0 && x < held.length) select(view, detail, y, x, true);
}

function select(view, detail, a, r, focus) {
  for (const other of $("lattice").querySelectorAll(".cell[aria-current]")) {
    other.removeAttribute("aria-current");
    other.tabIndex = -1;
  }
  const chosen = $(`cell-${a}-${r}`);
  chosen.setAttribute("aria-current", "true");
  chosen.tabIndex = 0;
  if (focus) { chosen.focus({ preventScroll: true }); chosen.scrollIntoView({ block: "nearest", inline: "nearest" }); }
  detail.replaceChildren(...explain(view, a, r));
  detail.scrollTop = 0;
}

// --- what was said ------------------------------------------------------------------------------

const failuresAt = ({ episode }, a, r) => episode.failures.filter((f) => f.agent === episode.names[a] && f.round === r);

function explain(view, a, r) {
  const { episode } = view, name = episode.names[a], response = view.response(episode.held[r][a]), turn = view.turn(a, r);
  return [
    h("h3", {}, name, h("span", { class: "dim" }, r ? ` · round ${r}` : " · first answer")),
    turn && decision(view, turn),
    failuresAt(view, a, r).map((f) => h("p", { class: "failure" }, `⚠ ${f.stage} failed: ${f.error}`)),
    response ? spoken(view, response, response.agent === name && response.round === r ? "What it said" :
      response.agent === name ? `What it still holds, from round ${response.round}` : `What it adopted from ${response.agent}`)
      : h("p", { class: "dim" }, wasAsked(view, a) ? "It holds no response." : "It was not asked."),
    response && prompt(view, response),
    turn && turn.alternatives.length > 0 && h("details", {}, h("summary", {}, `${plural(turn.alternatives.length, "alternative")} drawn only to learn from`),
      turn.alternatives.map((id) => own(episode.responses, id)).filter(Boolean).map((other) => spoken(view, other, other.id))),
  ].flat().filter(Boolean);
}

const SENTENCES = { PERSIST: "It kept its answer.", REFINE: "It asked its model again, in view of its peers.", CONCEDE: "It adopted a peer's answer." };

const ESTIMATES = { p: "p, its answer is right:", h: "h, REFINE mends a wrong answer:", d: "d, REFINE breaks a right one:", q: "q, the rival's answer is right:",
  refine: "REFINE gains", concede: "CONCEDE gains", price: "REFINE's price, taken off:" };

function decision(view, turn) {
  return h("section", { class: "decision" },
    h("p", {}, h("span", { class: `badge a-${turn.action}` }, turn.action), " ", SENTENCES[turn.action],
      turn.action === "REFINE" && turn.after === turn.before && " Nothing usable came of it: it kept what it had."),
    ACTIONS.map((action, n) => h("div", { class: `meter${action === turn.action ? " taken" : ""}` }, h("span", {}, action.toLowerCase()),
      h("span", { class: "track" }, h("span", { class: `level a-${action}`, style: extent(turn.probabilities[n]) })),
      h("span", { class: "value" }, turn.mask[n] ? percent(turn.probabilities[n], 1) : "barred"))),
    turn.estimates && h("p", { class: "facts dim" }, Object.entries(turn.estimates).map(([name, value]) => h("span", {}, `${ESTIMATES[name] ?? name} ${value.toFixed(3)}`))),
    !turn.mask[2] && h("p", { class: "dim" }, "No peer held a different answer to concede to."),
    turn.blocked && h("p", { class: "dim" }, turn.blocked === "decided"
      ? "REFINE was barred: no new answer could change the result."
      : `REFINE was barred by a budget: ${turn.blocked}.`));
}

function spoken(view, response, title) {
  const { letter, colour } = view.look(response.cluster), verdict = isRight(view.right, response.cluster), critique = response.critique;
  const scores = critique ? Object.entries(critique.scores).map(([name, score]) => `${name} ${score.toFixed(3)}`).join(", ") : "";
  const profile = response.profile;
  return h("section", { class: "spoken", style: { "--cluster": colour } },
    h("h4", {}, title),
    response.thought && h("details", {}, h("summary", {}, "its thought, which nobody else saw"), h("pre", { class: "text" }, response.thought)),
    h("pre", { class: "text" }, response.text || "(empty)"),
    h("p", { class: "facts" },
      h("span", {}, h("span", { class: "letter" }, letter), " ", h("strong", { class: verdictWord(verdict) }, `${response.answer ?? "no answer"} ${mark(verdict)}`)),
      h("span", {}, `${whole.format(response.usage.prompt_tokens)} + ${whole.format(response.usage.completion_tokens)} tokens`),
      h("span", {}, seconds(response.seconds)),
      response.model && h("span", {}, response.model),
      response.refused && h("span", { class: "bad" }, "refused to answer"),
      profile.truncated && h("span", { class: "bad" }, "cut off at the length limit"),
      response.finish_reason && response.finish_reason !== "stop" && h("span", {}, `finish: ${response.finish_reason}`)),
    critique && h("div", { class: "facts" }, h("span", { class: "dim" }, `confidence (${critique.source})`), confidenceBar(critique.confidence), h("span", { class: "dim" }, scores)),
    h("p", { class: "facts dim" }, h("span", {}, plural(profile.steps, "step")), h("span", {}, plural(profile.operators, "operator")), h("span", {}, plural(profile.hedges, "hedge")),
      profile.claimed_confidence !== null && h("span", {}, `claims ${percent(profile.claimed_confidence)}`),
      response.logprobs && h("span", { title: "exp of the mean token log-probability" }, `${percent(Math.exp(response.logprobs.mean), 1)} a token`)));
}

/** What stood in the prompt that this response answered. */
function prompt(view, response) {
  const { episode } = view, { names, held } = episode;
  const notes = own(episode.contexts, response.agent), before = response.round > 0 ? held[response.round - 1] : null;
  const part = (title, text, open = false) => h("details", { open }, h("summary", {}, title), h("pre", { class: "text" }, text));
  return h("section", { class: "prompt" },
    h("h4", {}, response.round ? `What ${response.agent} had before it, in round ${response.round}` : `What ${response.agent} had before it`),
    notes !== undefined && notes !== "" && part(`known to ${response.agent} alone`, notes, true),
    episode.history.length > 0 && part(`the conversation so far (${episode.history.length})`, episode.history.map((m) => `${m.role}: ${m.text}`).join("\n\n")),
    part("the question", episode.question + episode.attachments.map((kind) => `\n[${kind}]`).join("")),
    before && before.map((id, a) => id !== null && part(names[a] === response.agent ? "its own answer before" : `${names[a]}: ${view.response(id).answer ?? "no answer"}`, view.response(id).text)));
}

function failures({ episode }) {
  if (!episode.failures.length) return null;
  return h("details", { class: "extra", open: true }, h("summary", { class: "bad" }, plural(episode.failures.length, "failure")),
    h("ul", {}, episode.failures.map((f) => h("li", {}, `${f.agent}, round ${f.round}, ${f.stage}: ${f.error}`))));
}

function about({ episode }) {
  const rows = Object.entries(episode.options).map(([name, value]) => [name.replaceAll("_", " "), plain(value)]);
  const table = (pairs) => h("table", {}, pairs.map(([name, value]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, value))));
  return h("details", { class: "extra" }, h("summary", {}, "How it was set up"),
    table([["episode", episode.id], ["graph", episode.graph], ["reference", plain(episode.reference)], ...rows]),
    episode.agents.map((agent) => [h("h4", {}, plain(agent.name)), table(Object.entries(agent).filter(([name]) => name !== "name").map(([name, value]) => [name, plain(value)]))]));
}
