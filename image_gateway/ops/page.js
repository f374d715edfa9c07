"use strict";
// Fetches this page again and again and copies what has changed.  Nodes are kept, so that
// scrolling, a selection, the focus and unfolded details stay unchanged.

const INTERVAL_MS = 2000;
const TIMEOUT_MS = 10000;

const live = document.getElementById("live");
let lastAnswer = new Date();
let timer = 0;
let isFetching = false;

function update(current, wanted) {
  if (current.nodeType !== wanted.nodeType || current.nodeName !== wanted.nodeName) {
    current.replaceWith(document.importNode(wanted, true));
    return;
  }
  if (current.nodeType === Node.TEXT_NODE) {
    if (current.data !== wanted.data) current.data = wanted.data;
    return;
  }
  for (const { name } of [...current.attributes]) {
    if (name !== "open" && !wanted.hasAttribute(name)) current.removeAttribute(name);
  }
  for (const { name, value } of wanted.attributes) {
    if (current.getAttribute(name) !== value) current.setAttribute(name, value);
  }
  const [oldNodes, newNodes] = [[...current.childNodes], [...wanted.childNodes]];
  newNodes.forEach((node, index) => {
    if (index < oldNodes.length) update(oldNodes[index], node);
    else current.append(document.importNode(node, true));
  });
  oldNodes.slice(newNodes.length).forEach((node) => node.remove());
}

function showState(state, text) {
  live.className = state;
  if (live.textContent !== text) live.textContent = text;
}

async function refresh() {
  clearTimeout(timer);
  if (isFetching) return;
  if (document.hidden) {
    showState("paused", "Paused while this tab is hidden.");
    return;
  }
  isFetching = true;
  try {
    const answer = await fetch(location.pathname, {
      cache: "no-store",
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    if (!answer.ok) throw new Error(String(answer.status));
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    update(document.querySelector("main"), page.querySelector("main"));
    document.title = page.title;
    lastAnswer = new Date();
    showState("live", "Live");
  } catch {
    const since = lastAnswer.toISOString().slice(11, 19);
    document.title = "No answer";
    showState("lost", `No answer since ${since} UTC. This page shows the state of that time.`);
  }
  isFetching = false;
  timer = setTimeout(refresh, INTERVAL_MS);
}

document.addEventListener("visibilitychange", refresh);
refresh();
