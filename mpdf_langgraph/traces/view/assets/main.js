// --- the page -----------------------------------------------------------------------------------

/** Look at an episode; of several asked for in a row only the last is drawn. */
async function look(i) {
  current = i;
  drawRows();
  const hash = `#${encodeURIComponent(columns.id[i])}`;
  if (location.hash !== hash) history.replaceState(null, "", hash);
  try {
    const episode = (await block(columns.block[i]))[columns.place[i]];
    if (current === i) drawEpisode(i, episode);
  } catch (error) {
    if (current === i) $("episode").replaceChildren(h("p", { class: "failure" }, `This episode cannot be shown: ${error}`));
    console.error(error);
  }
}

function fromHash() {
  let id = "";
  try { id = decodeURIComponent(location.hash.slice(1)); } catch { /* no such episode */ }
  const i = columns.id.indexOf(id);
  if (i === current && i >= 0) return;
  const at = shown.indexOf(i);
  if (at >= 0) go(at); else if (i >= 0) look(i); else go(0);
}

function toggleTotals() {
  const hidden = ($("totals").hidden = !$("totals").hidden);
  $("toggle-totals").setAttribute("aria-expanded", String(!hidden));
  if (!hidden) drawTotals(shown);
  drawRows();
}

const THEMES = [["auto", "light dark", "as the system has them"], ["light", "light", "light"], ["dark", "dark", "dark"]];
let theme = 0;
function nextTheme() {
  theme = (theme + 1) % THEMES.length;
  const [name, scheme, label] = THEMES[theme];
  document.documentElement.style.setProperty("color-scheme", scheme);
  $("theme").textContent = `Colours: ${name}`;
  $("theme").setAttribute("aria-label", `Colours: ${label}`);
}

function listKeys(event) {
  const page = Math.max(1, Math.floor($("list").clientHeight / ROW) - 1);
  const by = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity }[event.key];
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  if (by !== undefined) step(by);
  else if (event.key === "Enter") $("lattice")?.querySelector("[aria-current]")?.focus();
  else return;
  event.preventDefault();
}

function keys(event) {
  const typing = event.target.matches("input, select, textarea");
  if (event.altKey || event.ctrlKey || event.metaKey || document.querySelector("dialog[open]")) return;
  if (event.key === "Escape") {
    if (event.target === $("search") && $("search").value) return; // it clears itself first
    $("list").focus();
  } else if (typing) return;
  else if (event.key === "/") $("search").focus();
  else if (event.key === "j") step(1);
  else if (event.key === "k") step(-1);
  else if (event.key === "t") toggleTotals();
  else if (event.key === "?") $("keys").showModal();
  else return;
  event.preventDefault();
}

function report(about) {
  const count = about.unreadable_count;
  $("source").textContent = about.source;
  document.title = `Deliberations: ${about.source}`;
  if (!count && !about.duplicates) return;
  $("unreadable").hidden = false;
  $("unreadable").classList.toggle("mild", !count);
  $("unreadable").textContent = count ? `⚠ ${plural(count, "record")} left out` : plural(about.duplicates, "duplicate");
  $("problems-text").textContent = [
    count > 0 && `${plural(count, "record")} torn or invalid, and in no figure on this page.`,
    about.duplicates > 0 && `${plural(about.duplicates, "record")} of an episode that is here already.`,
    count > about.unreadable.length && `The first ${about.unreadable.length}:`].filter(Boolean).join(" ");
  $("problems-list").replaceChildren(...about.unreadable.map((line) => h("li", {}, line)));
  $("unreadable").addEventListener("click", () => $("problems").showModal());
}

async function start() {
  const index = await unpack("index");
  columns = index.columns;
  report(index.about);
  if (!columns.id.length) { // every record was torn
    $("count").textContent = "No episodes";
    $("totals").hidden = true;
    $("episode").replaceChildren(h("p", { class: "dim" }, "No record in these traces could be read."));
    return;
  }
  setUpFilters();
  await applyFilters();
  fromHash();

  let pause = 0;
  $("search").addEventListener("input", () => { clearTimeout(pause); pause = setTimeout(refilter, 100); });
  for (const id of ["said", "result", "course", "router", "stop", "sort"]) $(id).addEventListener("change", refilter);
  $("reset").addEventListener("click", () => {
    for (const id of ["search", "result", "course", "router", "stop"]) $(id).value = "";
    refilter();
    $("search").focus();
  });
  let frame = 0;
  $("list").addEventListener("scroll", () => { cancelAnimationFrame(frame); frame = requestAnimationFrame(drawRows); });
  new ResizeObserver(drawRows).observe($("list"));
  $("list").addEventListener("keydown", listKeys);
  $("list").addEventListener("click", (event) => {
    const row = event.target.closest(".row");
    if (row) { look(Number(row.dataset.index)); $("list").focus({ preventScroll: true }); }
  });
  $("toggle-totals").addEventListener("click", toggleTotals);
  $("theme").addEventListener("click", nextTheme);
  $("help").addEventListener("click", () => $("keys").showModal());
  document.addEventListener("keydown", keys);
  addEventListener("hashchange", fromHash);
  let resized = 0;
  addEventListener("resize", () => { clearTimeout(resized); resized = setTimeout(() => look(current), 200); });
  performance.mark("ready");
}

function refilter() {
  $("list").scrollTop = 0;
  return applyFilters();
}

if (typeof DecompressionStream === "undefined") {
  $("count").textContent = "This browser is too old for the page: it lacks DecompressionStream (2023).";
} else {
  start().catch((error) => {
    $("count").textContent = `The page cannot be shown: ${error}`;
    console.error(error);
  });
}
