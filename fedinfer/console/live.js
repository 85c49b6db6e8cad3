"use strict";
// The server says that something changed; the page is asked for again, unless a person is writing a reason.
const changes = new EventSource("changes");
changes.onmessage = async () => {
  const focused = document.activeElement;
  if (focused && focused.tagName === "INPUT" && focused.value) return;
  const answer = await fetch(location.pathname);
  if (!answer.ok || answer.redirected) { location.reload(); return; }
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  document.querySelector("main").replaceWith(page.querySelector("main"));
  document.documentElement.dataset.renewed = String(Number(document.documentElement.dataset.renewed || 0) + 1);
};
