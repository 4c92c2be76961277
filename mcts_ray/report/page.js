"use strict";
// Tooltips, the path of the node under the pointer, and the switch between the best leaves and all of them.
const tip = document.getElementById("tip");
const data = document.getElementById("nodes");
const nodes = data ? JSON.parse(data.textContent) : [];
const views = [...document.querySelectorAll(".view")];
const elements = new Map(); // view -> node -> its elements, indexed when the view is first pointed at
let marked = [];

function elementsOf(view) {
  if (!elements.has(view)) {
    const index = new Map();
    for (const element of view.querySelectorAll("path[data-n], path[data-f]")) {
      const n = Number(element.dataset.n ?? element.dataset.f);
      index.set(n, [...(index.get(n) ?? []), element]);
    }
    elements.set(view, index);
  }
  return elements.get(view);
}

function describe(n) {
  const [, level, action, visits, value, phi, score, id, cosine, ess, fallback, particles] = nodes[n];
  const facts = [["level", level], ["visits", visits], ["value", value], ["phi", phi], ["step score", score]];
  facts.push(["cosine with the best", cosine], ["effective particles", ess], ["by innovation instead:", fallback]);
  const lines = facts.filter(([, fact]) => (fact ?? null) !== null).map(([name, fact]) => `${name} ${fact}`);
  return [particles ? `fused from ${particles.length}` : action, ...lines, id].join("\n");
}

function markPath(view, n) {
  const index = elementsOf(view);
  for (let node = n; node >= 0; node = nodes[node][0]) marked.push(...(index.get(node) ?? []));
  marked.forEach((element) => element.classList.add("on"));
}

function clear() {
  marked.forEach((element) => element.classList.remove("on"));
  marked = [];
  tip.hidden = true;
}

function place(event) {
  const { offsetWidth: width, offsetHeight: height } = tip;
  const left = event.clientX + 16 + width > innerWidth ? event.clientX - 12 - width : event.clientX + 16;
  const top = event.clientY + 16 + height > innerHeight ? event.clientY - 12 - height : event.clientY + 16;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, top)}px`;
}

document.addEventListener("pointerover", (event) => {
  clear();
  const target = event.target.closest("[data-n], [data-f], [data-tip]");
  if (!target) return;
  const n = target.dataset.n ?? target.dataset.f;
  tip.textContent = n === undefined ? target.dataset.tip : describe(n);
  const image = document.getElementById(`t${n}`);
  if (image) {
    const picture = new Image();
    picture.src = image.getAttribute("href");
    tip.prepend(picture);
  }
  if (n !== undefined) markPath(target.closest(".view"), Number(n));
  tip.hidden = false;
  place(event);
});
document.addEventListener("pointermove", (event) => tip.hidden || place(event));

// Where the tree does not fit, its leaves matter most.
document.querySelector(".forest")?.scrollTo({ left: 1e6 });

const button = document.getElementById("all");
button?.addEventListener("click", () => {
  views.forEach((view) => { view.hidden = !view.hidden; });
  [button.textContent, button.dataset.other] = [button.dataset.other, button.textContent];
});
