"use strict";
// Where the theme falls short of what axe-core asks for: a name of the search, and wide tables that a keyboard can scroll.

addEventListener("load", () => {
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
  for (const region of document.querySelectorAll(".md-typeset__scrollwrap")) {
    if (region.scrollWidth > region.clientWidth) region.tabIndex = 0;
  }
});
