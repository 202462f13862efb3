(() => {
  const tools = document.getElementById("find-tools");
  if (!tools) return;
  const box = document.getElementById("find");
  const said = document.getElementById("found");
  const rows = [...document.querySelectorAll(".op")];
  const modules = [...document.querySelectorAll("details.module")];
  const all = (open) => modules.forEach((one) => { one.open = open; });
  tools.hidden = false;
  document.getElementById("open-all").addEventListener("click", () => all(true));
  document.getElementById("close-all").addEventListener("click", () => all(false));
  let waiting = 0;
  let before = null; // which modules were open before the search, to open them again
  const search = () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    if (words.length && !before) before = modules.map((one) => one.open);
    let count = 0;
    for (const row of rows) {
      row.hidden = !words.every((word) => row.dataset.text.includes(word));
      count += !row.hidden;
    }
    for (const one of modules) {
      one.hidden = words.length > 0 && !one.querySelector(".op:not([hidden])");
      if (words.length) one.open = !one.hidden;
    }
    if (!words.length && before) {
      modules.forEach((one, i) => { one.open = before[i]; });
      before = null;
    }
    said.textContent = words.length ? `${count} of ${rows.length} ops` : "";
  };
  box.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(search, 120);
  });
})();
