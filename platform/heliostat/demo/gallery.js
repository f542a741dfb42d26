(() => {
  const { path, versions } = SETTINGS;
  const find = (selector) => document.querySelector(selector);

  const selected = () => find('#tabs button[role="tab"][aria-selected="true"]')?.id;

  // The card of the open tab is marked.
  const mark = (open) => {
    for (const card of document.querySelectorAll("#strip [data-tab]")) {
      const isOpen = open === `tab-${card.dataset.tab}-button`;
      card.classList.toggle("open", isOpen);
      card.setAttribute("aria-pressed", isOpen);
    }
  };

  const isOther = (models) =>
    models.length !== Object.keys(versions).length ||
    models.some((each) => !(each.name in versions) || (each.versions.length && !each.versions.includes(versions[each.name])));

  const show = (told) => {
    const strip = find("#strip"), who = find("#top .who");
    if (!strip) return;
    if (strip.dataset.html !== told.html) {
      const focused = document.activeElement?.dataset?.tab;
      strip.innerHTML = strip.dataset.html = told.html;
      if (focused) strip.querySelector(`[data-tab="${focused}"]`)?.focus();
    }
    who.hidden = !told.key;
    who.querySelector("b").textContent = told.key;
    find("#top .changed").hidden = !isOther(told.models);
    mark(selected());
  };

  const look = async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch(`${path}/status`, { headers: { Accept: "application/json" } });
      if (answer.status === 401) return location.assign(`${path}/sign-in`);
      if (!answer.ok) throw new Error(answer.status);
      show(await answer.json());
      find("#strip")?.classList.remove("stale");
    } catch {
      find("#strip")?.classList.add("stale");
    }
  };

  document.addEventListener("click", (event) => {
    const card = event.target.closest?.("#strip [data-tab]");
    if (card) document.getElementById(`tab-${card.dataset.tab}-button`)?.click();
    const tab = event.target.closest?.('#tabs button[role="tab"]');
    if (tab) mark(tab.id);
  });
  document.addEventListener("visibilitychange", look);
  const begin = setInterval(() => find("#strip") && (clearInterval(begin), look(), setInterval(look, 3000)), 50);
})();
