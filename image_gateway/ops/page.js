"use strict";
// Fetches this page again and again and takes over what has changed.  Nodes stay the same ones, so
// that scrolling, a selection, the focus and what is unfolded stay as they are.

const EVERY_MS = 2000;
const PATIENCE_MS = 10000;

const live = document.getElementById("live");
let heard = new Date();
let timer = 0;
let isAsking = false;

function morph(here, there) {
  if (here.nodeType !== there.nodeType || here.nodeName !== there.nodeName) {
    here.replaceWith(document.importNode(there, true));
    return;
  }
  if (here.nodeType === Node.TEXT_NODE) {
    if (here.data !== there.data) here.data = there.data;
    return;
  }
  for (const { name } of [...here.attributes]) {
    if (name !== "open" && !there.hasAttribute(name)) here.removeAttribute(name);
  }
  for (const { name, value } of there.attributes) {
    if (here.getAttribute(name) !== value) here.setAttribute(name, value);
  }
  const [old, fresh] = [[...here.childNodes], [...there.childNodes]];
  fresh.forEach((node, at) => {
    if (at < old.length) morph(old[at], node);
    else here.append(document.importNode(node, true));
  });
  old.slice(fresh.length).forEach((node) => node.remove());
}

function tell(state, text) {
  live.className = state;
  if (live.textContent !== text) live.textContent = text;
}

async function refresh() {
  clearTimeout(timer);
  if (isAsking) return;
  if (document.hidden) {
    tell("paused", "Paused while nobody looks.");
    return;
  }
  isAsking = true;
  try {
    const answer = await fetch(location.pathname, {
      cache: "no-store",
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
    if (!answer.ok) throw new Error(String(answer.status));
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    morph(document.querySelector("main"), page.querySelector("main"));
    document.title = page.title;
    heard = new Date();
    tell("live", "Live");
  } catch {
    const since = heard.toISOString().slice(11, 19);
    document.title = "No answer";
    tell("lost", `No answer since ${since} UTC. What stands below is as it was then.`);
  }
  isAsking = false;
  timer = setTimeout(refresh, EVERY_MS);
}

document.addEventListener("visibilitychange", refresh);
refresh();
