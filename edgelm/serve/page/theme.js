// Runs before the first paint, so that a dark page never flashes white. Not a module: modules run too late.
(function () {
  let theme = "auto";
  try {
    theme = localStorage.getItem("edgelm.theme") || "auto";
  } catch {
    // Storage is blocked: the system's theme it is.
  }
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
})();
