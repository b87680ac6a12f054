// Fetches the page again when what it shows has changed. Without it nothing is missing but that.
"use strict";
(() => {
  const EVERY_MS = 3000;
  let seen = null;

  async function refresh() {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("main");
    const main = document.getElementById("main");
    if (!fresh || !main) return;
    const open = [...main.querySelectorAll("details")].map((d) => d.open);
    main.replaceChildren(...fresh.childNodes);
    main.querySelectorAll("details").forEach((d, n) => { d.open = open[n] === true; });
  }

  async function look() {
    try {
      if (!document.hidden) {
        const stamp = await (await fetch("/stamp")).text();
        if (seen !== null && stamp !== seen) await refresh();
        seen = stamp;
      }
    } catch {
      // The server is away: what is shown stays, with the time at which it was made.
    }
    setTimeout(look, EVERY_MS);
  }

  look();
})();
