"use strict";

const $ = (id) => document.getElementById(id);
const WORDS = {
  clean: "Looks clean",
  adversarial: "Flagged as adversarial",
  error: "Could not be screened",
};

/* Fetches with the key, if there is one. Asks for a key if the service requires one. */
async function ask(path, options = {}) {
  const key = sessionStorage.getItem("key");
  const headers = { ...(options.headers || {}), ...(key ? { authorization: `Bearer ${key}` } : {}) };
  const answer = await fetch(path, { ...options, headers });
  if (answer.status === 401) {
    $("key").hidden = false;
    throw new Error("This service requires a key.");
  }
  const found = await answer.json();
  if (!answer.ok && !found.record && !found.records) throw new Error(found.error || answer.statusText);
  return found;
}

function fill(list, pairs) {
  list.replaceChildren(
    ...pairs
      .filter(([, value]) => value !== null && value !== undefined && value !== "")
      .map(([name, value]) => {
        const row = document.createElement("div"), term = document.createElement("dt"), what = document.createElement("dd");
        term.textContent = name;
        what.textContent = value;
        row.append(term, what);
        return row;
      }),
  );
}

function show(verdict, words) {
  const title = $("verdict");
  title.className = verdict;
  title.textContent = WORDS[verdict];
  $("words").textContent = words;
  $("result").hidden = false;
  $("result").setAttribute("aria-busy", "false");
  title.focus();
}

async function screen(file) {
  if (!file) return;
  $("result").setAttribute("aria-busy", "true");
  $("result").hidden = false;
  $("verdict").className = "soft";
  $("verdict").textContent = "Screening ...";
  $("words").textContent = "";
  for (const id of ["pictures", "feedback"]) $(id).hidden = true;
  $("numbers").replaceChildren();
  try {
    const name = encodeURIComponent(file.name || "pasted");
    const type = { "content-type": "application/octet-stream" };
    const found = await ask(`v1/explain?name=${name}`, { method: "POST", headers: type, body: file });
    if (!found.record) throw new Error(found.error || "The service gave no verdict.");
    explain(found.record, found.pictures);
  } catch (error) {
    show("error", error.message);
  }
  look();
}

function explain(record, pictures) {
  if (record.verdict === "error") {
    show("error", `${record.path || "The image"}: ${record.error}.`);
    return;
  }
  const p = record.p_value, shown = pictures || {};
  const share = p < 0.001 ? `${(100 * p).toFixed(2)} %` : `${(100 * p).toFixed(1)} %`;
  let words = `${share} of clean images${record.history ? " with such a history" : ""} have an anomaly score that is at least as high.`;
  if (record.history === "unknown") words += " The image is unlike the images that the detector knows, so its p-value promises less.";
  if (record.query_attack) words += " The image closely resembles several images that this client sent before. The queries of a black-box attack do this.";
  show(record.verdict, words);
  fill($("numbers"), [
    ["p-value", p.toPrecision(3)],
    ["bits/dim", record.bits_per_dim === null ? null : record.bits_per_dim.toFixed(3)],
    ["anomaly score", record.score.toFixed(2)],
    ["history", record.history],
    ["detector", record.detector],
    ["image", `${record.path || "pasted"}, ${record.width} x ${record.height}`],
    ["label", shown.label_before],
    ["label after purification", shown.label_after],
  ]);
  if (pictures) {
    $("image").src = pictures.image;
    $("surprisal").src = pictures.surprisal || "data:,";
    for (const id of ["surprisal", "scale"]) $(id).hidden = !pictures.surprisal;
    for (const id of ["purified", "difference"]) {
      $(id).parentElement.hidden = !pictures[id];
      $(id).src = pictures[id] || "data:,";
    }
    if (pictures.purified) $("purified-words").textContent = `Purified image, p-value ${pictures.p_value_purified.toPrecision(2)}`;
    for (const picture of document.querySelectorAll("#pictures img")) picture.style.imageRendering = record.width < 256 ? "" : "auto";
    $("brightest").textContent = `${pictures.brightest} nats or more`;
  }
  $("pictures").hidden = !pictures;
  const said = record.verdict === "adversarial"
    ? [["false_alarm", "This is a false alarm"], ["attack", "This is an attack"]]
    : [["missed", "This is an attack"], ["clean", "This is clean"]];
  $("feedback").replaceChildren(...said.map(([kind, text]) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.onclick = () => tell(record.id, kind);
    return button;
  }));
  $("feedback").hidden = false;
}

async function tell(id, kind) {
  const type = { "content-type": "application/json" };
  try {
    await ask("v1/feedback", { method: "POST", headers: type, body: JSON.stringify({ id, feedback: kind }) });
    $("feedback").textContent = "Noted in the log.";
  } catch (error) {
    $("feedback").textContent = error.message;
  }
  look();
}

async function look() {
  try {
    const [rows, drift] = await Promise.all([ask("v1/verdicts?limit=12"), ask("v1/drift")]);
    $("verdicts").replaceChildren(...rows.map(line));
    $("none").hidden = rows.length > 0;
    $("drift").replaceChildren(...Object.entries(drift).map(gauge));
  } catch (error) {
    $("drift").textContent = error.message;
  }
}

function line(row) {
  const made = document.createElement("tr");
  made.setAttribute("role", "row");
  const note = [row.error, row.query_attack ? "query attack" : "", (row.feedback || "").replace("_", " ")];
  const cells = [
    new Date(1000 * row.time).toLocaleTimeString(),
    row.path || "-",
    row.verdict,
    row.p_value === null ? "" : row.p_value.toFixed(4),
    row.bits_per_dim === null ? "" : row.bits_per_dim.toFixed(3),
    note.filter(Boolean).join("; "),
  ];
  made.append(...cells.map((text) => {
    const cell = document.createElement("td");
    cell.setAttribute("role", "cell");
    cell.textContent = text;
    return cell;
  }));
  made.children[3].dataset.name = "p-value";
  made.children[4].dataset.name = "bits/dim";
  made.children[2].className = row.verdict;
  return made;
}

function gauge([name, state]) {
  const made = document.createElement("div");
  made.className = "gauge";
  const said = { drift: "Have the scores shifted?", attacks: "Are there too many high scores?" };
  for (const [bet, question] of Object.entries(said)) {
    const label = document.createElement("span"), bar = document.createElement("div"), fill = document.createElement("i");
    const share = Math.max(0, Math.min(1, Math.log(state.highest[bet]) / Math.log(state.alarm_from)));
    label.textContent = question;
    bar.className = "bar";
    bar.setAttribute("role", "meter");
    bar.setAttribute("aria-label", `${name}: ${question}`);
    bar.setAttribute("aria-valuemin", "0");
    bar.setAttribute("aria-valuemax", "100");
    bar.setAttribute("aria-valuenow", Math.round(100 * share));
    fill.style.width = `${100 * share}%`;
    if (state.alarms[bet]) fill.className = "alarm";
    bar.append(fill);
    made.append(label, bar);
  }
  const words = document.createElement("p");
  const alarm = Object.values(state.alarms).some(Boolean);
  words.className = alarm ? "adversarial" : "soft";
  words.textContent = alarm
    ? `${name}: alarm. The traffic no longer looks like the calibration images. Clean traffic causes an alarm with a probability of at most ${100 * state.false_alarm_bound} %.`
    : `${name}: no alarm after ${state.images} ${state.images === 1 ? "image" : "images"}`;
  made.prepend(words);
  return made;
}

$("file").addEventListener("change", (event) => { screen(event.target.files[0]); event.target.value = ""; });
for (const kind of ["dragover", "dragenter"]) {
  document.addEventListener(kind, (event) => { event.preventDefault(); $("drop").classList.add("over"); });
}
for (const kind of ["dragleave", "drop"]) document.addEventListener(kind, () => $("drop").classList.remove("over"));
document.addEventListener("drop", (event) => { event.preventDefault(); screen(event.dataTransfer.files[0]); });
document.addEventListener("paste", (event) => screen([...event.clipboardData.files][0]));
$("opacity").addEventListener("input", (event) => { $("surprisal").style.opacity = event.target.value / 100; });
$("key").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", $("secret").value);
  $("key").hidden = true;
  look();
  models();
});

async function models() {
  try {
    const found = await ask("v1/detectors");
    const takes = found.map((one) => `${one.takes} (${one.name})`);
    $("models").textContent = `This service screens PNG, JPEG, WebP, BMP and GIF files: ${takes.join(" or ")}.`;
  } catch (error) { /* look() shows it */ }
}

models();
look();
setInterval(look, 5000);
