// Start: what is on the screen first, the rest as it comes near.

const near = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) build(sections.find(({ element }) => element === entry.target));
}, { rootMargin: "300px" });

const ACTIONS = {
  reset,
  fit: toggleFit,
  theme: toggleTheme,
  csv: (button) => download("csv", chosenBy(button)),
  json: (button) => download("json", chosenBy(button)),
};

function chosenBy(button) {
  return button.dataset.reward === undefined ? sections : [sections[button.dataset.reward]];
}

for (const button of document.querySelectorAll("button[data-do]")) {
  button.addEventListener("click", () => ACTIONS[button.dataset.do](button));
}
for (const element of document.querySelectorAll(".scripted")) element.hidden = false;

addEventListener("keydown", onKey);
addEventListener("hashchange", readAddress);
addEventListener("resize", () => sections.forEach(resize));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);

let screenTheme = "";
addEventListener("beforeprint", () => {
  screenTheme = document.documentElement.dataset.theme ?? "";
  document.documentElement.classList.add("printed");
  sections.forEach(build);
  setTheme("light");
  sections.forEach(resize);
});
addEventListener("afterprint", () => {
  document.documentElement.classList.remove("printed");
  setTheme(screenTheme);
  sections.forEach(resize);
});

readAddress();
sections.forEach(({ element }) => near.observe(element));
requestAnimationFrame(() => requestAnimationFrame(() => (document.documentElement.dataset.ready = performance.now().toFixed(0))));
